"""Lock -> base Layers; source tree -> project Layer.

Rule 1: the base depends on the lock and base.lock alone, so projects that pin the same share it.
Rule 2: a large package is a layer of its own; small ones share a fixed number of buckets chosen
by name, so that one more package changes one bucket. On a base image of many layers fewer are
large, so that the image stays below what Docker takes.
Rule 3: packages live in a virtual environment at /opt/venv, so that a package's layer is the same
on every base image.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from toolchain.digest import Digest
from toolchain.lock import Lock, Package
from toolchain.lock.base import AptPins, BasePins
from toolchain.values import dataclass

if TYPE_CHECKING:
    from toolchain.lock.conda import CondaPackage
    from toolchain.store import Store
    from toolchain.trace import Trace

GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"

# Raise when the bytes of a layer change for the same inputs.
LAYOUT_VERSION = 3
# Raise when the layers under the packages change for the same inputs.
SYSTEM_VERSION = 3
PREFIX = "opt/venv"
PROJECT_FOLDER = "project"
RUNNER_FOLDER = "opt/toolchain"
USER_ID = 1000
USER_NAME = "mlflow"
HOME = f"home/{USER_NAME}"

_Package = TypeVar("_Package", Package, "CondaPackage")

_LARGE = 1 << 20  # bytes of a wheel
_BUCKETS = 16
_MOST_LARGE = 76  # with buckets, base and project at most 100 layers, of the 127 that Docker takes
MOST_LAYERS = 120  # of an image, on whatever base
_AROUND = 4  # beside base and packages: environment, `apt`, runner, project
# An image with conda packages has two such groups, each with its buckets.
MOST_LARGE_OF_CONDA = 44
MOST_LARGE_BESIDE_CONDA = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer as an OCI descriptor plus what the config needs (image-spec, layer.md, config.md).

    digest: of the compressed blob; diff_id: of the tar; size: of the blob, in bytes;
    label: for people, what is in it in full, as in `a 1.0, b 2.0`; `docker history` shows it.
    """

    digest: Digest
    diff_id: Digest
    size: int
    media_type: str
    label: str

    def to_json(self) -> dict[str, Any]:
        return {"digest": str(self.digest), "diff_id": str(self.diff_id), "size": self.size,
                "media_type": self.media_type, "label": self.label}

    @classmethod
    def from_json(cls, value: Any) -> Layer:
        return cls(digest=Digest.parse(value["digest"]), diff_id=Digest.parse(value["diff_id"]),
                   size=value["size"], media_type=value["media_type"], label=value["label"])


def to_json(layers: tuple[Layer, ...]) -> dict[str, Any]:
    """The receipt of the base and layer stages."""
    return {"layers": [layer.to_json() for layer in layers]}


def from_json(value: Any) -> tuple[Layer, ...]:
    return tuple(Layer.from_json(item) for item in value["layers"])


def on_record(stage: str, key: Digest, trace: Trace, store: Store) -> Layer | None:
    """The layer that was made for that key, if it is still in the store."""
    known = trace.get(stage, key)
    layer = Layer.from_json(known) if known is not None else None
    return layer if layer is not None and store.has(layer.digest) else None


class WheelSource(Protocol):
    """Where wheels come from. `Wheel` is in toolchain.layer.wheel."""

    def locate(self, packages: tuple[Package, ...], python: str, platform: str,
               options: tuple[str, ...]) -> None:
        """Find out where the files of a lock are to be had; once for all is faster than singly.

        `options` are those of the lock, here and below.
        """

    def wheel(self, package: Package, python: str, platform: str,
              options: tuple[str, ...]) -> Any:
        """The package's wheel in the store, checked against the lock. Twice is as once.

        Raises ResolveError.
        """

    def here(self, package: Package, python: str, platform: str) -> Any:
        """The package's wheel if it is in the store already, else None."""


class DebSource(Protocol):
    """Where .deb files come from."""

    def fetch(self, pins: BasePins | AptPins) -> None:
        """Put every package into the store, checked. Twice is as once. Raises ResolveError."""


class Compiler(Protocol):
    """The pinned interpreter that makes byte-code. A context manager; nothing starts before the
    first file."""

    @property
    def identity(self) -> str:
        """What decides its output, as plans name it."""

    @property
    def tag(self) -> str:
        """As in the names of the files: `cpython-311`."""

    def __enter__(self) -> Compiler: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None: ...

    def compile(self, sources: tuple[tuple[str, bytes], ...]) -> Future[list[bytes | None]]:
        """The .pyc of each (path in the image, source), None for one that does not compile.

        Equal sources give equal bytes on every machine, whatever was compiled before. The result
        raises ResolveError if the compiler cannot be started, crashes or hangs.
        """


def base_plan(lock: Lock, base: Mapping[str, Any],
              compressor: str = "libdeflate-1") -> dict[str, Any]:
    """What the base layers are made of; its digest is their key.

    `base` is what `Foundation.to_json` says of what is under the packages, and what compiles
    their modules. `compressor` is the identity of one.
    """
    return {
        "layout": LAYOUT_VERSION,
        "compressor": compressor,
        "prefix": PREFIX,
        "python": lock.python_minor,
        "platform": lock.platform,
        "system": SYSTEM_VERSION,
        "base": dict(base),
        "packages": {package.name: f"{package.version} {package.sha256.hex}"
                     for package in lock.packages},
        **({"conda": {p.name: f"{p.version} {p.build} {p.channel_name} {p.sha256.hex}"
                      for p in lock.conda.packages}} if lock.conda else {}),
    }


def bucket(name: str) -> int:
    """The bucket that a small package of that name shares."""
    return int(Digest.of(name.encode()).hex[:8], 16) % _BUCKETS


def fewest(lock: Lock) -> int:
    """How many layers an image has at most, beside those of its base image, if no package but
    conda's is large."""
    return _AROUND + _conda_layers(lock) + len({bucket(p.name) for p in lock.packages})


def most_large(lock: Lock, below: int) -> int:
    """How many packages of a lock may be large, on a base image of `below` layers.

    It leaves room for every bucket, so that it does not move with the names of small packages.
    """
    usual = _MOST_LARGE if lock.conda is None else MOST_LARGE_BESIDE_CONDA
    left = MOST_LAYERS - below - _AROUND - _conda_layers(lock) - _BUCKETS
    return max(0, min(usual, left))


def _conda_layers(lock: Lock) -> int:
    conda = lock.conda.packages if lock.conda else ()
    return len(group({package: package.size for package in conda}, MOST_LARGE_OF_CONDA))


def group(sizes: Mapping[_Package, int], most_large: int = _MOST_LARGE
          ) -> list[tuple[str, tuple[_Package, ...]]]:
    """Split packages into layers: (label, packages), large ones by name, then buckets.

    `sizes` are the packages' sizes in bytes.
    """
    by_size = sorted(sizes, key=lambda package: (-sizes[package], package.name))
    large = sorted(p for p in by_size[:most_large] if sizes[p] >= _LARGE)
    groups: list[tuple[str, tuple[_Package, ...]]] = [
        (f"{package.name} {package.version}", (package,)) for package in large
    ]
    shared: dict[int, list[_Package]] = {}
    for package in sorted(set(sizes) - set(large)):
        shared.setdefault(bucket(package.name), []).append(package)
    for number in sorted(shared):
        members = tuple(shared[number])
        groups.append((", ".join(f"{p.name} {p.version}" for p in members), members))
    return groups
