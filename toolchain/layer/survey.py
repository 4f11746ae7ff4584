"""Layers of somebody else's image -> what has to be known of its inside to build on it.

Nothing is unpacked: the tars are read once, in order, and what a later layer removes (image-spec,
layer.md, "Whiteouts") is forgotten.
"""

from __future__ import annotations

import posixpath
import re
import tarfile
from collections.abc import Iterator
from dataclasses import field

from toolchain.layer import PREFIX, libraries
from toolchain.layer.foreign_tar import ForeignTar, Readable
from toolchain.values import dataclass

_OS_RELEASE = ("etc/os-release", "usr/lib/os-release")
_STATUS = "var/lib/dpkg/status"
_STATUS_FOLDER = "var/lib/dpkg/status.d/"  # as distroless images have it
_ALTERNATIVES = "var/lib/dpkg/alternatives/"
_LIBC = re.compile(r"(usr/)?lib(64)?/([^/]+-linux-gnu/)?libc(\.so\.6|-2\.\d+\.so)\Z")
_MUSL = re.compile(r"(usr/)?lib/ld-musl-[^/]+\.so\.1\Z")
_PYTHON = re.compile(r"(.+/)?bin/python(3\.\d+)\Z")
_VENV = "pyvenv.cfg"  # PEP 405
_HOME = re.compile(r"^home[ \t]*=[ \t]*(/[^\r\n]*?)[ \t\r]*$", re.MULTILINE)
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,63}\Z")  # os-release(5) allows little else
_RELEASE = re.compile(rb"GNU C Library [^\n]{0,80}release version (\d+\.\d+)")
_LARGEST_FILE = 64 << 20
_MOST_KEPT = 256 << 20  # bytes, of all layers
_MOST_STEPS = 200  # on the way to a folder
_OVERHEAD = 200  # bytes that a path costs beside its letters


@dataclass(slots=True)
class Survey:
    """What was seen so far: path -> content, a link's target for a link, of files that matter."""

    _files: dict[str, bytes] = field(default_factory=dict)
    _links: dict[str, str] = field(default_factory=dict)  # all symbolic ones: path -> target
    is_occupied: bool = False  # something is where this tool's environment goes
    left: int = _MOST_KEPT  # what may still be kept

    def layer(self, stream: Readable) -> None:
        """Look through one layer's uncompressed tar.

        Raises tarfile.TarError for what is no tar, ValueError for one that is refused.
        """
        gone: set[str] = set()
        emptied: set[str] = set()
        seen: dict[str, bytes] = {}
        links: dict[str, str] = {}
        occupies = False
        with ForeignTar(stream) as archive:
            for member in archive:
                path = _checked(member.name)
                folder, _, name = path.rpartition("/")
                if name.startswith(".wh."):
                    if name == ".wh..wh..opq":
                        self._keep(folder, emptied)
                    else:
                        self._keep(posixpath.join(folder, name.removeprefix(".wh.")), gone)
                    continue
                self._links.pop(path, None)
                occupies = occupies or path.startswith(f"{PREFIX}/")
                if member.issym():
                    self._spend(_OVERHEAD + len(path) + len(member.linkname))
                    links[path] = member.linkname
                if _matters(path):
                    self._spend(_OVERHEAD + len(path))
                    seen[path] = self._content(path, member, archive, seen)

        def is_gone(path: str) -> bool:  # a whiteout hides what lower layers have, not its own
            return path in gone or any(above in gone or above in emptied for above in _above(path))

        self._files = {path: data for path, data in self._files.items()
                       if not is_gone(path)} | seen
        self._links = {path: link for path, link in self._links.items()
                       if not is_gone(path)} | links
        self.is_occupied = occupies or (self.is_occupied and not is_gone(f"{PREFIX}/"))

    def _content(self, path: str, member: tarfile.TarInfo, archive: ForeignTar,
                 seen: dict[str, bytes]) -> bytes:
        if member.issym():
            return member.linkname.encode("utf-8", "surrogateescape")
        if member.islnk():
            target = posixpath.normpath(member.linkname.lstrip("/"))
            return seen.get(target, self._files.get(target, b""))
        if not member.isreg() or _PYTHON.match(path):
            return b""
        if member.size > _LARGEST_FILE:
            raise ValueError(f"{member.name} is too large to be what it seems")
        self._spend(member.size)
        return archive.content(member).read()

    def _keep(self, path: str, paths: set[str]) -> None:
        self._spend(_OVERHEAD + len(path))
        paths.add(path)

    def _spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise ValueError("it has more to look at than any image needs")

    def suite(self) -> str:
        """Debian's codename; empty for another system."""
        for values in self._os_releases():
            if values.get("ID", "").strip('"') == "debian":
                return values.get("VERSION_CODENAME", "").strip('"')
        return ""

    def system(self) -> tuple[str, str]:
        """What os-release(5) calls the system, as in `ubuntu`, and its release: the codename,
        `jammy`, or else the number. Each is empty where it is not told, and both are where
        `suite` says it: pins that further Debian packages stand on say nothing twice."""
        for values in () if self.suite() else self._os_releases():
            name, codename, number = (
                word if _WORD.match(word) else ""
                for word in (values.get(key, "").strip().strip("\"'")
                             for key in ("ID", "VERSION_CODENAME", "VERSION_ID")))
            if name:
                return name.lower(), codename or number
        return "", ""

    def _os_releases(self) -> Iterator[dict[str, str]]:
        """What each os-release file says, the one that counts first."""
        for path in _OS_RELEASE:
            text = self._files.get(path, b"").decode("utf-8", "replace")
            yield dict(line.partition("=")[::2] for line in text.splitlines())

    def installed(self) -> dict[str, str]:
        """Debian packages: name -> version."""
        paragraphs = [
            paragraph
            for path, data in self._files.items()
            if path == _STATUS or path.startswith(_STATUS_FOLDER)
            for paragraph in data.decode("utf-8", "replace").split("\n\n")
        ]
        found = {}
        for paragraph in paragraphs:
            fields = dict(re.findall(r"^(Package|Version|Status): (.*)$", paragraph,
                                     re.MULTILINE))
            if "Package" in fields and "Version" in fields and (
                    fields.get("Status", "install ok installed").endswith(" installed")):
                found[fields["Package"]] = fields["Version"]
        return found

    def alternatives(self) -> dict[str, str]:
        """Name -> what update-alternatives has on record."""
        return {path.removeprefix(_ALTERNATIVES): data.decode("utf-8", "replace")
                for path, data in sorted(self._files.items()) if path.startswith(_ALTERNATIVES)}

    def libraries(self) -> dict[str, str]:
        """What its ld.so.cache names; nothing where it has none that can be read."""
        try:
            return libraries.to_json(libraries.read(self._files.get(libraries.PATH, b"")))
        except ValueError:
            return {}

    def glibc(self) -> str:
        """The version of the GNU C library, as in `2.36`; empty where there is none."""
        for path, data in self._files.items():
            if _LIBC.match(path) and (match := _RELEASE.search(data)):
                return match[1].decode()
        return ""

    def is_musl(self) -> bool:
        return any(map(_MUSL.match, self._files))

    def pythons(self, search: str) -> dict[str, str]:
        """Interpreters on the search path `a:b`: `X.Y` -> absolute path, the first on it."""
        found: dict[str, str] = {}
        for folder in filter(None, search.split(":")):
            for version, path in self._pythons_in(folder).items():
                found.setdefault(version, path)
        return found

    def homes(self, search: str) -> dict[str, str]:
        """Virtual environments on the search path, and the one at this tool's own place: their
        folder of programs -> that of the interpreter they were made with (PEP 405)."""
        found = {}
        for folder in map(posixpath.normpath, (*filter(None, search.split(":")), f"/{PREFIX}/bin")):
            above = self._resolved(posixpath.dirname(folder))
            settings = self._files.get(f"{above[1:]}/{_VENV}", b"")
            home = _HOME.search(settings.decode("utf-8", "replace"))
            if home and self._pythons_in(folder).keys() <= self._pythons_in(home[1]).keys():
                found[folder] = posixpath.normpath(home[1])
        return found

    def _pythons_in(self, folder: str) -> dict[str, str]:
        folder = self._resolved(folder)
        return {match[2]: f"/{path}" for path in self._files
                if f"/{posixpath.dirname(path)}" == folder and (match := _PYTHON.match(path))}

    def _resolved(self, folder: str) -> str:
        """A folder without links on its way, as the kernel finds it: `/bin` is `/usr/bin`."""
        found, left = "", posixpath.normpath(folder).split("/")[1:]
        for _ in range(_MOST_STEPS):
            if not left:
                break
            step = left.pop(0)
            if step in ("", "."):
                continue
            if step == "..":
                found = posixpath.dirname(found)
                continue
            link = self._links.get(f"{found}/{step}".lstrip("/"))
            if link is None:
                found = f"{found}/{step}" if found != "/" else f"/{step}"
                continue
            if link.startswith("/"):
                found = ""
            left = [*link.split("/"), *left]
        return found or "/"


def _matters(path: str) -> bool:
    return (path in _OS_RELEASE or path == _STATUS
            or (path.startswith(_STATUS_FOLDER) and not path.endswith(".md5sums"))
            or path.startswith(_ALTERNATIVES) or path == libraries.PATH
            or path.endswith(f"/{_VENV}")
            or any(pattern.match(path) for pattern in (_LIBC, _MUSL, _PYTHON)))


def _checked(name: str) -> str:
    """An entry's path, as in `usr/bin`. Raises ValueError for one that leaves the layer."""
    if name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"an entry leaves its layer: {name[:200]!r}")
    return posixpath.normpath(name)


def _above(path: str) -> Iterator[str]:
    """The folders above a path; last of them the root, which is empty."""
    while path:
        path = path.rpartition("/")[0]
        yield path
