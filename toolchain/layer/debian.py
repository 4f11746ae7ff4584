"""Debian packages -> layers: the operating system, the interpreter, and what a project adds.

What maintainer scripts would do and a container needs is done here: users, the links that merge
/bin and /lib into /usr, the CA bundle, the links of update-alternatives, the loader's cache, dpkg's
status (so that scanners see the packages), and the virtual environment at /opt/venv that package
layers fill.
"""

from __future__ import annotations

import contextlib
import hashlib
import tarfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, cast

from toolchain.errors import ResolveError
from toolchain.layer import (
    HOME,
    LAYOUT_VERSION,
    PREFIX,
    SYSTEM_VERSION,
    USER_ID,
    USER_NAME,
    Layer,
    alternatives,
    libraries,
)
from toolchain.layer.alternatives import Files, Group
from toolchain.layer.archive import Entry, LayerWriter
from toolchain.layer.bytecode import Bytecode
from toolchain.layer.compression import LIBDEFLATE, Compression
from toolchain.layer.deb import Deb, unpack
from toolchain.layer.environment import environment
from toolchain.lock.base import AptPins, BasePins, DebianPackage
from toolchain.lock.image import ImagePins
from toolchain.store import Store


def plan(pins: BasePins, python: str | None, bytecode: str | None = None,
         compression: Compression = LIBDEFLATE) -> dict[str, Any]:
    """What the two layers are made of; its digest is their key for all projects.

    `bytecode` is the identity of the compiler, if modules are compiled. Without `python` there is
    the system alone, in the very same layer: something else brings the interpreter.
    """
    return {"layout": LAYOUT_VERSION, "compressor": compression.identity, "python": python,
            "prefix": PREFIX, "bytecode": bytecode, "system": SYSTEM_VERSION,
            "base": pins.to_json()}


def make(pins: BasePins, python: str | None, store: Store, pool: ThreadPoolExecutor,
         bytecode: Bytecode | None = None, compression: Compression = LIBDEFLATE,
         tell: Callable[[str], None] = lambda _: None) -> tuple[Layer, ...]:
    """Build the layers from packages that are in the store. Raises ResolveError, StoreError.

    `tell` is told for people what a package lacks since its maintainer script is not run.
    """
    debs = {package: _unpack(package, store) for package in pins.packages}
    system = _system([p for p in pins.packages if not _is_python(p)], debs)
    links = _alternatives(pins, debs, system)
    for note in links.notes:
        tell(note)
    for entry in links.entries:
        _put(system, entry)
    _loader_cache(system, libraries.find(system, _architecture(pins)))
    label = _label(f"debian {pins.suite}", [p for p in pins.packages if not _is_python(p)])
    if python is None:
        status: dict[str, Entry] = {}
        _dpkg_status(status, {p: deb for p, deb in debs.items() if not _is_python(p)})
        return (_layer(label, system, store, pool, compression),
                _layer("status of debian's packages", status, store, pool, compression))
    version = pins.version("python3").partition("-")[0]
    interpreter = _python([p for p in pins.packages if _is_python(p)], pins, debs, python, version)
    if bytecode is not None:
        _compile(interpreter, python, bytecode)
    labels = (label, _label(f"python {version}", [p for p in pins.packages if _is_python(p)]))
    return tuple(_layer(label, entries, store, pool, compression)
                 for label, entries in zip(labels, (system, interpreter), strict=True))


def _label(title: str, packages: list[DebianPackage]) -> str:
    return f"{title}: " + ", ".join(f"{p.name} {p.version}" for p in packages)


def more_plan(pins: AptPins, compression: Compression = LIBDEFLATE) -> dict[str, Any]:
    """What the layer of further packages is made of; its digest is its key for all projects.

    The base is part of it: which of two alternatives is taken depends on both packages.
    """
    return {"layout": LAYOUT_VERSION, "compressor": compression.identity,
            "platform": pins.platform, "system": SYSTEM_VERSION, "on": str(pins.on),
            "packages": [package.sha256.hex for package in pins.packages]}


def make_more(pins: AptPins, on: BasePins | ImagePins, store: Store, pool: ThreadPoolExecutor,
              compression: Compression = LIBDEFLATE,
              tell: Callable[[str], None] = lambda _: None) -> Layer:
    """Build the layer of further packages. Raises ResolveError, StoreError.

    The packages of `on`, as of `pins`, are in the store. dpkg's status is the base's own file, so
    these are recorded as distroless images do: a file for each package in status.d, which
    scanners read. `tell` is as in `make`.
    """
    entries: dict[str, Entry] = {}
    debs = {package: _unpack(package, store) for package in pins.packages}
    for package, deb in debs.items():
        entries.update({entry.path: entry for entry in deb.entries})
        _put(entries, _file(f"var/lib/dpkg/status.d/{package.name}", _status(deb).encode()))
        _put(entries, _file(f"var/lib/dpkg/status.d/{package.name}.md5sums",
                            deb.md5sums.encode()))
    under, groups = _under(on, store)
    files = Files([*under.values(), *entries.values()], is_all=isinstance(on, BasePins))
    links = alternatives.make({p.name: deb for p, deb in debs.items()}, _architecture(pins), files,
                              groups)
    for note in (*links.notes, *links.undone):
        tell(note)
    for entry in links.entries:
        _put(entries, entry)
    found = libraries.find({**under, **entries}, _architecture(pins))
    if isinstance(on, BasePins):
        _loader_cache(entries, found)
    elif on.libraries and found:  # without a cache of its own, one would hide what it has
        with contextlib.suppress(ValueError):
            _loader_cache(entries, (*libraries.from_json(on.libraries), *found))
    label = ", ".join(f"{p.name} {p.version}" for p in pins.packages)
    return _layer(label, entries, store, pool, compression)


def _alternatives(pins: BasePins, debs: Mapping[DebianPackage, Deb], system: Mapping[str, Entry]
                  ) -> alternatives.Made:
    """What the system's packages offer. Those of the interpreter offer nothing, and the layer is
    the same without them."""
    return alternatives.make({p.name: deb for p, deb in debs.items() if not _is_python(p)},
                             _architecture(pins), Files(system.values(), is_all=True), {})


def _loader_cache(entries: dict[str, Entry], found: tuple[libraries.Library, ...]) -> None:
    if found:
        _put(entries, _file(libraries.PATH, libraries.cache(found)))


def _under(on: BasePins | ImagePins, store: Store) -> tuple[dict[str, Entry], dict[str, Group]]:
    """The files and alternatives that further packages find; of an image, the latter alone."""
    if isinstance(on, ImagePins):
        groups = {}
        for name, record in on.alternatives.items():
            with contextlib.suppress(ValueError):  # update-alternatives starts it anew as well
                groups[name] = alternatives.parse(record)
        return {}, groups
    debs = {package: _unpack(package, store) for package in on.packages}
    system = _system([p for p in on.packages if not _is_python(p)], debs)
    made = _alternatives(on, debs, system)
    every = [*system.values(), *made.entries,
             *(entry for p, deb in debs.items() if _is_python(p) for entry in deb.entries)]
    return {entry.path: entry for entry in every}, made.groups


def _architecture(pins: BasePins | AptPins) -> str:
    """Debian's name of it."""
    return pins.platform.partition("/")[2]


def _is_python(package: DebianPackage) -> bool:
    return package.name.startswith(("python3", "libpython3"))


def _unpack(package: DebianPackage, store: Store) -> Deb:
    with store.open(package.sha256) as stream:
        name = f"{package.name}_{package.version}_{package.architecture}.deb"
        return unpack(name, cast("BinaryIO", stream))


def _layer(label: str, entries: dict[str, Entry], store: Store,
           pool: ThreadPoolExecutor, compression: Compression) -> Layer:
    with LayerWriter(store, label, pool, compression) as writer:
        # A hard link must follow the file that it names.
        for entry in sorted(entries.values(),
                            key=lambda entry: (entry.kind == tarfile.LNKTYPE, entry.path)):
            writer.add(entry)
    assert writer.layer is not None
    return writer.layer


def _system(packages: list[DebianPackage], debs: dict[DebianPackage, Deb]) -> dict[str, Entry]:
    entries = {entry.path: entry for package in packages for entry in debs[package].entries}
    for name in ("bin", "lib", "sbin"):
        _put(entries, _symlink(name, f"usr/{name}"))
    if any(path.startswith("usr/lib64/") for path in entries):
        _put(entries, _symlink("lib64", "usr/lib64"))
    for folder, mode, user in (("tmp", 0o1777, 0), ("var/tmp", 0o1777, 0), ("run", 0o755, 0),
                               ("proc", 0o755, 0), ("sys", 0o755, 0), ("dev", 0o755, 0),
                               ("root", 0o700, 0), ("home", 0o755, 0), (HOME, 0o755, USER_ID)):
        _put(entries, Entry(path=folder, mode=mode, kind=tarfile.DIRTYPE, uid=user, gid=user))
    _put(entries, _symlink("var/run", "/run"))
    _users(entries)
    _certificates(entries)
    if "usr/bin/sh" not in entries:
        _put(entries, _symlink("usr/bin/sh", "dash"))
    if "usr/share/base-files/nsswitch.conf" in entries:
        _put(entries, _file("etc/nsswitch.conf",
                            entries["usr/share/base-files/nsswitch.conf"].data))
    _put(entries, _symlink("etc/localtime", "/usr/share/zoneinfo/Etc/UTC"))
    _put(entries, _file("etc/timezone", b"Etc/UTC\n"))
    return entries


def _python(packages: list[DebianPackage], pins: BasePins, debs: dict[DebianPackage, Deb],
            python: str, version: str) -> dict[str, Entry]:
    entries = {entry.path: entry for package in packages for entry in debs[package].entries}
    if f"usr/bin/python{python}" not in entries:
        raise ResolveError(f"the base has no python{python}", where="base.lock",
                           fix="delete base.lock and run `doit resolve` to pin anew")
    _dpkg_status(entries, debs)
    for entry in environment(f"/usr/bin/python{python}", python, version):
        _put(entries, entry)
    return entries


def _compile(entries: dict[str, Entry], python: str, bytecode: Bytecode) -> None:
    """The standard library's byte-code, which the packages' maintainer scripts would make."""
    batch = bytecode.batch()
    for entry in [*entries.values()]:
        if entry.kind == tarfile.REGTYPE and entry.path.startswith(f"usr/lib/python{python}/"):
            batch.add(entry.path, entry.data, hashlib.sha256(entry.data).digest())
    for path, data in batch.results():
        _put(entries, _file(path, data))


def _users(entries: dict[str, Entry]) -> None:
    """/etc/passwd and /etc/group from base-passwd's master copies, plus one ordinary user."""
    for name, line in (
        ("passwd", f"{USER_NAME}:x:{USER_ID}:{USER_ID}::/{HOME}:/bin/bash\n"),
        ("group", f"{USER_NAME}:x:{USER_ID}:\n"),
    ):
        master = entries.get(f"usr/share/base-passwd/{name}.master")
        root = b"root:x:0:0:root:/root:/bin/bash\n" if name == "passwd" else b"root:x:0:\n"
        known = (master.data if master else root).replace(b":*:", b":x:")
        _put(entries, _file(f"etc/{name}", known + line.encode()))


def _certificates(entries: dict[str, Entry]) -> None:
    """The CA bundle that ca-certificates' maintainer script would make."""
    bundle = b"".join(
        entry.data.strip() + b"\n"
        for path, entry in sorted(entries.items())
        if path.startswith("usr/share/ca-certificates/") and path.endswith(".crt")
    )
    _put(entries, _file("etc/ssl/certs/ca-certificates.crt", bundle))
    # OpenSSL's default file; spares the directory of hashed links.
    _put(entries, _symlink("usr/lib/ssl/cert.pem", "/etc/ssl/certs/ca-certificates.crt"))


def _dpkg_status(entries: dict[str, Entry], debs: dict[DebianPackage, Deb]) -> None:
    paragraphs = []
    for package, deb in debs.items():
        paragraphs.append(_status(deb))
        same = f":{package.architecture}" if "Multi-Arch: same" in deb.control else ""
        info = f"var/lib/dpkg/info/{package.name}{same}"
        listing = "".join(f"/{entry.path}\n" for entry in deb.entries)
        _put(entries, _file(f"{info}.list", listing.encode()))
        _put(entries, _file(f"{info}.md5sums", deb.md5sums.encode()))
    _put(entries, _file("var/lib/dpkg/status", "\n".join(paragraphs).encode()))


def _status(deb: Deb) -> str:
    """A package's paragraph in dpkg's status."""
    first, _, rest = deb.control.strip().partition("\n")
    return f"{first}\nStatus: install ok installed\n{rest}\n"


def _put(entries: dict[str, Entry], entry: Entry) -> None:
    entries[entry.path] = entry


def _file(path: str, data: bytes) -> Entry:
    return Entry(path=path, mode=0o644, data=data)


def _symlink(path: str, target: str) -> Entry:
    return Entry(path=path, mode=0o777, kind=tarfile.SYMTYPE, link=target)
