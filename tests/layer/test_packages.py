"""Package layers are shared, built once, and made again if they are damaged."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.wheels import wheel
from toolchain.digest import Digest
from toolchain.errors import ResolveError
from toolchain.journal import Journal
from toolchain.layer import (
    MOST_LARGE_BESIDE_CONDA,
    MOST_LAYERS,
    Layer,
    bucket,
    fewest,
    from_json,
    group,
    most_large,
    to_json,
)
from toolchain.layer.conda import _groups
from toolchain.layer.packages import Built, make
from toolchain.layer.wheel import Wheel
from toolchain.lock import Lock, Package
from toolchain.lock.conda import CondaLock, CondaPackage
from toolchain.progress import Progress
from toolchain.store import Store
from toolchain.trace import Trace

Members = Callable[[Layer], dict[str, tuple[tarfile.TarInfo, bytes]]]
_MIB = 1 << 20
_OTHER_LAYERS = 3  # system, interpreter, project


def _package(name: str, version: str = "1.0") -> Package:
    return Package(name=name, version=version, sha256=Digest.of(f"{name} {version}".encode()))


_NAMES = st.from_regex(r"[a-z][a-z0-9]{0,8}(-[a-z0-9]{1,4})?", fullmatch=True)
_SIZES = st.one_of(st.integers(0, _MIB - 1), st.integers(_MIB, 900 * _MIB))
_LOCKS = st.dictionaries(_NAMES.map(_package), _SIZES, max_size=60)


@settings(deadline=None)
@given(_LOCKS, _NAMES, st.integers(0, _MIB - 1))
def test_one_more_small_package_changes_exactly_one_layer(
    sizes: dict[Package, int], name: str, size: int
) -> None:
    sizes.pop(_package(name), None)
    before = {members for _, members in group(sizes)}
    after = {members for _, members in group({**sizes, _package(name): size})}
    assert len(after - before) == 1
    assert len(before - after) <= 1
    (changed,) = after - before
    assert _package(name) in changed
    assert {bucket(member.name) for member in changed} == {bucket(name)}


@settings(deadline=None)
@given(_LOCKS, _NAMES, st.integers(_MIB, 900 * _MIB))
def test_one_more_large_package_is_one_more_layer(
    sizes: dict[Package, int], name: str, size: int
) -> None:
    sizes.pop(_package(name), None)
    before, after = group(sizes), group({**sizes, _package(name): size})
    assert set(after) - set(before) == {(f"{name} 1.0", (_package(name),))}
    assert set(before) <= set(after)


@settings(deadline=None)
@given(_LOCKS)
def test_every_package_is_in_one_layer_and_large_ones_are_alone(sizes: dict[Package, int]) -> None:
    groups = group(sizes)
    members = [package for _, packages in groups for package in packages]
    assert sorted(members) == sorted(sizes)
    assert len({label for label, _ in groups}) == len(groups)
    for _, packages in groups:
        assert packages == tuple(sorted(packages))
        assert len(packages) == 1 or all(sizes[package] < _MIB for package in packages)


@settings(deadline=None)
@given(st.randoms(use_true_random=False), _LOCKS)
def test_the_order_of_a_lock_does_not_change_its_layers(
    random: object, sizes: dict[Package, int]
) -> None:
    items = list(sizes.items())
    getattr(random, "shuffle")(items)  # noqa: B009
    assert group(dict(items)) == group(sizes)


@settings(deadline=None, max_examples=20)
@given(st.lists(_SIZES, min_size=500, max_size=500))
def test_five_hundred_packages_fit_into_a_hundred_layers(sizes: list[int]) -> None:
    groups = group({_package(f"package-{number}"): size for number, size in enumerate(sizes)})
    assert len(groups) + _OTHER_LAYERS <= 100


@pytest.mark.parametrize("size", [0, _MIB - 1, _MIB, 900 * _MIB])
def test_five_hundred_packages_of_one_size_fit_too(size: int) -> None:
    groups = group({_package(f"package-{number}"): size for number in range(500)})
    assert len(groups) + _OTHER_LAYERS <= 100


_AROUND_PACKAGES = 4  # environment, apt, runner, project


def _lock(*packages: Package, conda: int = 0) -> Lock:
    """A lock with that many conda packages, half of them large."""
    channel = "https://conda.invalid/forge"
    under = CondaLock(platform="linux/amd64", input=Digest.of(b""), packages=tuple(
        CondaPackage(name=f"under-{number}", version="1.0", build="0", channel=channel,
                     subdir="noarch", file=f"under-{number}-1.0-0.conda",
                     size=_MIB if number % 2 else 1, sha256=Digest.of(f"{number}".encode()))
        for number in range(conda)))
    return Lock(python="3.11", platform="linux/amd64", packages=tuple(sorted(packages)),
                input=Digest.of(b""), conda=under if conda else None)


@pytest.mark.parametrize("below", [0, 5, 24])
def test_on_few_layers_packages_are_grouped_as_on_none(below: int) -> None:
    sizes = {_package(f"package-{number}"): _MIB * (number % 2) for number in range(300)}
    assert group(sizes, most_large(_lock(*sizes), below)) == group(sizes)
    assert most_large(_lock(*sizes, conda=9), below) == MOST_LARGE_BESIDE_CONDA


@pytest.mark.parametrize("conda", [0, 7, 300])
@pytest.mark.parametrize("large", [0, 10, 300])
@pytest.mark.parametrize("small", [0, 3, 300])
def test_on_any_base_that_is_not_refused_an_image_has_no_more_layers_than_docker_takes(
    conda: int, large: int, small: int
) -> None:
    sizes = {**{_package(f"large-{number}"): _MIB for number in range(large)},
             **{_package(f"small-{number}"): 1 for number in range(small)}}
    lock = _lock(*sizes, conda=conda)
    others = _AROUND_PACKAGES + (0 if lock.conda is None else len(_groups(lock.conda)))
    last = MOST_LAYERS - fewest(lock)
    before = len(sizes)
    for below in range(last + 1):
        groups = group(sizes, most_large(lock, below))
        assert below + others + len(groups) <= MOST_LAYERS
        assert sum(len(members) for _, members in groups) == len(sizes)
        assert len(groups) <= before  # more below, never more above
        before = len(groups)
    # What is refused would be more even with no large package.
    assert last + 1 + others + len(group(sizes, 0)) > MOST_LAYERS


def test_how_many_are_large_does_not_move_with_a_small_package() -> None:
    few, many = _lock(_package("a")), _lock(*map(_package, "abcdefghijklmnop"))
    for below in range(MOST_LAYERS):
        assert most_large(few, below) == most_large(many, below)


def test_a_layer_is_called_alike_whatever_else_a_lock_holds() -> None:
    """A label is in the manifest, so it must follow from what the layer's key is made of."""
    crowd = {_package(f"crowd-{number}"): 2 * _MIB for number in range(76)}
    last = _package("last")
    alone = {packages: label for label, packages in group({last: _MIB})}
    among = {packages: label for label, packages in group({**crowd, last: _MIB})}
    assert among[last,] == alone[last,]


def test_a_label_names_every_package_with_its_version() -> None:
    """`docker history --no-trunc` shows it."""
    name = next(name for name in map("other{}".format, range(99))
                if bucket(name) == bucket("small"))
    labels = [label for label, _ in group({
        _package("small"): 1, _package(name, "2.0"): 2, _package("large"): _MIB})]
    assert labels == ["large 1.0", f"{name} 2.0, small 1.0"]


class Folder:
    """A WheelSource that serves the wheels of a folder; `fetched` is what it was asked for."""

    def __init__(self, folder: Path, store: Store) -> None:
        self._folder = folder
        self._store = store
        self.located: list[tuple[Package, ...]] = []
        self.fetched: list[str] = []

    def locate(self, packages: tuple[Package, ...], python: str, platform: str,
               options: tuple[str, ...] = ()) -> None:
        self.located.append(packages)

    def wheel(self, package: Package, python: str, platform: str,
              options: tuple[str, ...] = ()) -> Wheel:
        self.fetched.append(package.name)
        (path,) = self._folder.glob(f"{package.name}-{package.version}-*.whl")
        data = path.read_bytes()
        if Digest.of(data) != package.sha256:
            raise ResolveError(f"hash mismatch: {package.name} {package.version}", where=str(path))
        self._store.put(data)
        return Wheel(digest=package.sha256, filename=path.name)

    def here(self, package: Package, python: str, platform: str) -> Wheel | None:
        return None


class Workshop:
    """Wheels in a folder, and the layers that are made of them."""

    def __init__(self, folder: Path, store: Store, trace: Trace) -> None:
        self.folder = folder
        self.store = store
        self.trace = trace
        self.source = Folder(folder, store)
        self.progress = Progress()

    def add(self, name: str, version: str = "1.0", size: int = 0) -> Package:
        noise = hashlib.shake_256(name.encode()).digest(size)
        path = wheel(self.folder, name, version, files={
            f"{name}.py": f"VERSION = {version!r}\n".encode(), f"{name}.bin": noise})
        return Package(name=name, version=version, sha256=Digest.of(path.read_bytes()))

    def make(self, *packages: Package, python: str = "3.11", below: int = 0) -> Built:
        lock = Lock(python=python, platform="linux/amd64", packages=tuple(sorted(packages)),
                    input=Digest.of(b""))
        with ThreadPoolExecutor(2) as pool:
            return make(lock, self.source, self.store, self.trace, self.progress, pool,
                        lambda who: None, below=below)


@pytest.fixture
def shop(tmp_path: Path, store: Store, trace: Trace) -> Workshop:
    return Workshop(tmp_path / "wheels", store, trace)


def test_layers_hold_the_packages_files_large_ones_first(shop: Workshop, members: Members) -> None:
    built = shop.make(shop.add("small"), shop.add("large", size=2 * _MIB), shop.add("huge",
                                                                                   size=3 * _MIB))
    assert [layer.label.split()[0] for layer in built.layers] == ["huge", "large", "small"]
    site = "opt/venv/lib/python3.11/site-packages"
    for layer, name in zip(built.layers, ("huge", "large", "small"), strict=True):
        found = members(layer)
        assert found[f"{site}/{name}.py"][1] == b"VERSION = '1.0'\n"
        assert f"{site}/{name}-1.0.dist-info/RECORD" in found
    assert built.made == {layer.digest for layer in built.layers}
    assert shop.progress.done == shop.progress.expected > 5 * _MIB


def test_on_many_layers_only_the_largest_is_alone(shop: Workshop) -> None:
    beside = next(name for name in map("other{}".format, range(99))
                  if bucket(name) == bucket("large"))
    packages = [shop.add(name, size=size * _MIB)
                for name, size in (("large", 2), (beside, 2), ("huge", 3))]
    assert len(shop.make(*packages, below=97).layers) == 3
    together = f"large 1.0, {beside} 1.0"
    assert [layer.label for layer in shop.make(*packages, below=99).layers] == [
        "huge 1.0", together]


def test_the_same_lock_again_makes_nothing(shop: Workshop) -> None:
    packages = shop.add("small"), shop.add("large", size=2 * _MIB)
    first = shop.make(*packages)
    again = shop.make(*packages)
    assert (again.layers, again.made) == (first.layers, frozenset())


def test_a_lock_that_overlaps_makes_only_what_differs(shop: Workshop) -> None:
    common, large = shop.add("common"), shop.add("large", size=2 * _MIB)
    first = shop.make(common, large)
    other = next(name for name in map("other{}".format, range(99))
                 if bucket(name) != bucket("common"))
    second = shop.make(common, large, shop.add(other))
    assert set(first.layers) < set(second.layers)
    assert second.made == {layer.digest for layer in set(second.layers) - set(first.layers)}
    assert [layer.label.split()[0] for layer in second.layers
            if layer.digest in second.made] == [other]


def test_another_version_makes_its_own_layer_again(shop: Workshop) -> None:
    first = shop.make(shop.add("large", size=2 * _MIB))
    second = shop.make(shop.add("large", "1.1", size=2 * _MIB))
    assert second.layers[0].label == "large 1.1"
    assert first.layers != second.layers


def test_another_python_is_another_layer(shop: Workshop) -> None:
    package = shop.add("small")
    assert shop.make(package).layers != shop.make(package, python="3.13").layers
    assert shop.make(package, python="3.11.9").made == frozenset()


@pytest.mark.parametrize("how", ["corrupted", "deleted"])
def test_a_layer_blob_that_is_damaged_is_made_again_alike(shop: Workshop, how: str) -> None:
    packages = shop.add("small"), shop.add("large", size=2 * _MIB)
    first = shop.make(*packages)
    victim = first.layers[0]
    path = shop.store.path(victim.digest)
    path.chmod(0o644)
    if how == "deleted":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    again = shop.make(*packages)
    assert again.layers == first.layers
    assert again.made == {victim.digest}
    assert all(shop.store.has(layer.digest) for layer in again.layers)


def test_two_stores_make_the_same_bytes(shop: Workshop, tmp_path: Path) -> None:
    packages = shop.add("small"), shop.add("another"), shop.add("large", size=5 * _MIB)
    cache = tmp_path / "another"
    journal = Journal(cache)
    other = Workshop(shop.folder, Store(cache / "blobs", cache / "quarantine", journal),
                     Trace(cache, journal))
    assert other.make(*packages).layers == shop.make(*packages).layers


def test_a_wheel_with_another_hash_than_pinned_is_refused_by_name(shop: Workshop) -> None:
    good = shop.add("good")
    bad = Package(name="bad", version="1.0", sha256=Digest.of(b"something else"))
    shop.add("bad")
    with pytest.raises(ResolveError, match=r"bad 1\.0"):
        shop.make(good, bad)


def test_a_wheel_that_is_damaged_is_refused_and_not_remembered(shop: Workshop) -> None:
    shop.folder.mkdir()
    path = shop.folder / "broken-1.0-py3-none-any.whl"
    path.write_bytes(b"PK\3\4 rubbish")
    package = Package(name="broken", version="1.0", sha256=Digest.of(path.read_bytes()))
    for _ in range(2):
        with pytest.raises(ResolveError, match=path.name):
            shop.make(package)


def test_a_lock_without_packages_has_no_layers(shop: Workshop) -> None:
    assert shop.make() == Built(layers=(), made=frozenset())


def test_layers_are_read_back_from_a_receipt(shop: Workshop) -> None:
    layers = shop.make(shop.add("small"), shop.add("large", size=2 * _MIB)).layers
    assert from_json(to_json(layers)) == layers
