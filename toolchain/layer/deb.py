""".deb files -> entries: unpacked in memory, distrusted, without running a maintainer script.

Formats: deb(5); python-debian reads them. Debian's packages since bookworm expect /bin, /lib and
/sbin to be links into /usr, so every path is moved there.
"""

from __future__ import annotations

import lzma
import posixpath
import tarfile
import zlib
from dataclasses import replace
from typing import BinaryIO

from toolchain.errors import ResolveError
from toolchain.layer.archive import Entry
from toolchain.values import dataclass

_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_LARGEST_PACKAGE = 2 << 30
# What a container has no use for; licences stay, as their terms ask.
_DROPPED = ("usr/share/man/", "usr/share/info/", "usr/share/locale/", "usr/share/lintian/",
            "usr/share/doc-base/", "usr/share/bug/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deb:
    """An unpacked package. `control` is its control paragraph, `md5sums` as it ships them,
    `postinst` the text of that maintainer script; empty where there is none."""

    control: str
    md5sums: str
    entries: tuple[Entry, ...]
    postinst: str = ""


def unpack(name: str, stream: BinaryIO) -> Deb:
    """Read a .deb. Raises ResolveError naming the package and the entry that is refused."""
    from debian.arfile import ArError
    from debian.debfile import DebError, DebFile

    try:
        package = DebFile(fileobj=stream)
        control = package.control.get_content("control", encoding="utf-8")
        md5sums = (package.control.get_content("md5sums", encoding="utf-8")
                   if package.control.has_file("md5sums") else "")
        postinst = (package.control.get_content("postinst")
                    if package.control.has_file("postinst") else b"")
        entries = tuple(_entries(name, package.data.tgz()))
    except (ArError, DebError, tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError,
            UnicodeDecodeError, ValueError, KeyError, OverflowError,
            RecursionError) as error:  # hard links in a circle
        raise _bad(name, "", f"not a valid .deb: {error}") from None
    script = postinst.decode("utf-8", "replace") if isinstance(postinst, bytes) else ""
    return Deb(control=str(control), md5sums=str(md5sums), entries=entries, postinst=script)


def _entries(name: str, archive: tarfile.TarFile) -> list[Entry]:
    found: list[Entry] = []
    total = 0
    for member in archive:
        path = _path(name, member.name)
        if not path or is_dropped(path):
            continue
        total += member.size
        if total > _LARGEST_PACKAGE:
            raise _bad(name, member.name, "makes the package too large")
        entry = Entry(path=path, mode=member.mode & 0o7777, uid=member.uid, gid=member.gid)
        if member.isdir():
            found.append(replace(entry, kind=tarfile.DIRTYPE))
        elif member.issym():
            found.append(replace(entry, kind=tarfile.SYMTYPE, mode=0o777,
                                 link=_link(name, path, member.linkname)))
        elif member.islnk():
            found.append(_hard_link(name, member, entry, archive, found))
        elif member.isreg():
            data = archive.extractfile(member)
            assert data is not None
            found.append(replace(entry, data=data.read()))
        else:
            raise _bad(name, member.name, "is a device or pipe")
    return found


def _hard_link(package: str, member: tarfile.TarInfo, entry: Entry, archive: tarfile.TarFile,
               found: list[Entry]) -> Entry:
    """A hard link to a file of the same package, or a copy of one that was dropped."""
    target = _path(package, member.linkname)
    if any(other.path == target and other.kind == tarfile.REGTYPE for other in found):
        return replace(entry, kind=tarfile.LNKTYPE, link=target)
    try:
        data = archive.extractfile(member)
    except KeyError:
        data = None
    if data is None:
        raise _bad(package, member.name, f"is a hard link to no file: {member.linkname}")
    return replace(entry, data=data.read())


def _path(package: str, path: str) -> str:
    """A member's path below the root, moved into /usr; empty for the root itself."""
    if path.startswith("/") or ".." in path.split("/") or "\0" in path:
        raise _bad(package, path, "leaves the root")
    clean = posixpath.normpath(path)
    if clean == ".":
        return ""
    return "" if clean in _MERGED else merged(clean)


def merged(path: str) -> str:
    """Where a path is since /bin and the like are links into /usr."""
    return f"usr/{path}" if path.partition("/")[0] in _MERGED else path


def _link(package: str, path: str, target: str) -> str:
    """A symbolic link's target. Absolute ones are within the image, as in every distribution."""
    if not target.startswith("/"):
        inside = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        if inside.split("/")[0] == "..":
            raise _bad(package, path, f"links out of the root, to {target}")
    return target


def is_dropped(path: str) -> bool:
    """Whether a file is left out of images."""
    if path.startswith("usr/share/doc/"):
        return not path.endswith("/copyright")
    return path.startswith(_DROPPED)


def _bad(package: str, entry: str, reason: str) -> ResolveError:
    return ResolveError(
        f"refused: {entry!r} {reason}" if entry else f"refused: {reason}",
        where=f"{package}, entry {entry}" if entry else package,
        fix="do not use this file; set another mirror, or pin anew with upgrade=1",
    )
