"""A requirement line that names no release of an index, but a folder, a repository or a file.

Source of the forms: pip's requirements file format and its VCS support; PEP 508 for `name @ URL`.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from toolchain.errors import SpecError, without_credentials
from toolchain.values import dataclass

FOLDER, FILE, GIT, URL = "folder", "file", "git", "url"

# A file that pip would install: for a wheel or an sdist `beta-1.0.tar.gz` is also a valid name.
ARCHIVE = re.compile(r"\.whl\Z|-\d[^/]*\.(?:tar\.\w+|tgz|zip)\Z", re.IGNORECASE)
_ARCHIVE_URL = re.compile(r"\.(?:whl|tar\.\w+|tgz|zip)\Z", re.IGNORECASE)
_EXTRAS = re.compile(r"(.*?)\[([A-Za-z0-9._, -]*)\]\Z", re.DOTALL)
_MARKER = re.compile(r"\s+;\s*|;\s+")
_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[([^\]]*)\])?\s*@\s*(?!\s)(.+)\Z",
                    re.DOTALL)
_LOOKS_LIKE_ONE = re.compile(r"[./~]|file:|[A-Za-z]+\+?\w*://|(git|hg|svn|bzr)\+", re.IGNORECASE)
_VARIABLE = re.compile(r"\$\{[A-Z0-9_]+\}\Z")
_REVISION = re.compile(r"(?!-)[^\s\x00-\x1f~^:?*\[\\]+\Z")
_GIT_SCHEMES = ("https", "ssh", "file", "http", "git")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Source:
    """Where a package is to be built or fetched from.

    kind: FOLDER or FILE of the workspace, a GIT repository, or the URL of a file. location: a
    path relative to the project's folder, beginning with `.`; else a URL, which may hold
    `${VARIABLE}` in place of a user or password and never a literal one. name: canonical, empty
    where the line gives none. revision: a branch, tag or commit; empty for the default branch.
    hashes: sha256 digests (hex) that the project insists on.
    """

    kind: str
    location: str
    name: str = ""
    extras: tuple[str, ...] = ()
    marker: str = ""
    revision: str = ""
    subdirectory: str = ""
    hashes: tuple[str, ...] = ()

    def __str__(self) -> str:
        extras = f"[{','.join(self.extras)}]" if self.extras else ""
        place = f"git+{self.location}" if self.kind == GIT else self.location
        place += f"@{self.revision}" if self.revision else ""
        place += f"#subdirectory={self.subdirectory}" if self.subdirectory else ""
        text = f"{self.name}{extras} @ {place}" if self.name else f"{place}{extras}"
        return f"{text} ; {self.marker}" if self.marker else text

    def to_json(self) -> dict[str, Any]:
        found = {"kind": self.kind, "location": self.location, "name": self.name,
                 "extras": list(self.extras), "marker": self.marker, "revision": self.revision,
                 "subdirectory": self.subdirectory, "hashes": list(self.hashes)}
        return {key: value for key, value in found.items() if value}

    @classmethod
    def from_json(cls, value: Any) -> Source:
        return cls(kind=value["kind"], location=value["location"], name=value.get("name", ""),
                   extras=tuple(value.get("extras", ())), marker=value.get("marker", ""),
                   revision=value.get("revision", ""), hashes=tuple(value.get("hashes", ())),
                   subdirectory=value.get("subdirectory", ""))


def is_one(line: str) -> bool:
    """Whether a requirement line names a place rather than a release. The line holds no option."""
    named = _NAMED.match(line)
    body = _split(line)[0]
    return bool(named or _LOOKS_LIKE_ONE.match(line) or ARCHIVE.search(body)
                or ("/" in body and re.fullmatch(r"[\w./@+ -]+(\[[^\]]*\])?", body)))


def read(line: str, hashes: tuple[str, ...], where: str) -> Source:
    """Read such a line. Raises SpecError."""
    body, marker = _split(line)
    name, extras = "", ""
    named = _NAMED.match(body)
    if named:
        name, extras, body = named[1], named[2] or "", named[3].strip()
    elif "#egg=" not in body and (found := _EXTRAS.match(body)):
        body, extras = found[1], found[2]
    body, _, fragment = body.strip().partition("#")
    parts = dict(parse_qsl(fragment, keep_blank_values=True))
    egg = re.match(r"([A-Za-z0-9._-]+)(?:\[([^\]]*)\])?\Z", parts.get("egg", ""))
    if egg and not name:
        name, extras = egg[1], egg[2] or extras
    if "sha256" in parts and re.fullmatch(r"[0-9a-fA-F]{64}", parts["sha256"]):
        hashes = (*hashes, parts["sha256"].lower())
    kind, location, revision = _place(body, where)
    if hashes and kind in (FOLDER, GIT):
        raise SpecError(f"a {kind} has no one hash: {without_credentials(body)}", where=where,
                        fix="take --hash away; the lock pins what it is built from")
    return Source(kind=kind, location=location, name=_name(name, where), revision=revision,
                  extras=_extras(extras, where), marker=_marker(marker, where),
                  subdirectory=_subdirectory(parts.get("subdirectory", ""), where),
                  hashes=tuple(sorted(set(hashes))))


def kind_of(place: str) -> str:
    """FOLDER, FILE, GIT or URL: what stands in a lock as a package's source."""
    place = place.partition("#")[0]
    if place.startswith("git+"):
        return GIT
    if "://" in place:
        return URL
    return FILE if _ARCHIVE_URL.search(place) else FOLDER


def check_secret(url: str, where: str) -> None:
    """A password in a file of the repository would travel to whoever has the image or the lock.

    Raises SpecError.
    """
    if holds_secret(url):
        raise SpecError(
            f"a user or password is written into a URL: {without_credentials(url)}", where=where,
            fix="write ${NAME} in its place, which is taken from the environment; or use netrc or "
                "a credential helper")


def holds_secret(url: str) -> bool:
    """Whether a login of the URL may be one: a user may be a token, unless it is ssh's or `git`, or
    a password out of the environment stands beside it."""
    if "://" not in url:
        return False
    scheme = url.partition("://")[0].lower()
    before, at, _ = re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)[0].rpartition("@")
    if not at:
        return False
    user, _, password = before.partition(":")
    if password:
        return not _VARIABLE.match(password)
    return not (user == "git" or scheme.endswith("ssh") or _VARIABLE.match(user))


def _split(line: str) -> tuple[str, str]:
    parts = _MARKER.split(line, maxsplit=1)
    return parts[0].strip(), parts[1].strip() if len(parts) > 1 else ""


def _place(body: str, where: str) -> tuple[str, str, str]:
    """(kind, location, revision)"""
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in body):
        raise SpecError("a path or URL holds a control character", where=where,
                        fix="take it out")
    check_secret(body, where)
    if re.match(r"(hg|svn|bzr)\+", body, re.IGNORECASE):
        raise SpecError(f"version control other than git: {without_credentials(body)}",
                        where=where, fix="have a wheel of it, or a git repository")
    if body.lower().startswith("git+"):
        return (GIT, *_git(body[4:], where))
    if "://" in body and not body.lower().startswith("file:"):
        return URL, _url(body, where), ""
    path = _path(body, where)
    return kind_of(path), path, ""


def _git(text: str, where: str) -> tuple[str, str]:
    scp = re.match(r"([\w.-]+@[\w.-]+):(?!/)(.+)\Z", text)
    url = f"ssh://{scp[1]}/{scp[2]}" if scp and "://" not in text else text
    parts = _urlsplit(url, where)
    if parts.scheme not in _GIT_SCHEMES or not (parts.netloc or parts.scheme == "file"):
        raise SpecError(f"not a git URL that is followed: {without_credentials(text)}",
                        where=where, fix="use git+https://, git+ssh://, git+http://, git+git:// or "
                                         "git+file://")
    path, at, revision = parts.path.rpartition("@")
    if not at:
        path, revision = parts.path, ""
    if at and not _REVISION.match(revision):
        raise SpecError(f"not a git revision: {revision!r}", where=where,
                        fix="name a branch, a tag or a commit")
    if parts.query:
        raise SpecError("a git URL with a query", where=where, fix="take the query away")
    return f"{parts.scheme}://{parts.netloc}{path}", revision


def _url(text: str, where: str) -> str:
    parts = _urlsplit(text, where)
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise SpecError(f"not a URL that is followed: {without_credentials(text)}", where=where,
                        fix="use https://, git+https:// or a path")
    if not _ARCHIVE_URL.search(unquote(parts.path)):
        raise SpecError(f"neither a wheel nor a source archive: {without_credentials(text)}",
                        where=where, fix="name a .whl, .tar.gz or .zip; a repository as git+https")
    return text


def _urlsplit(text: str, where: str) -> Any:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:
        raise SpecError(f"not a URL: {without_credentials(text)} ({error})", where=where,
                        fix="write it as in https://host/path") from None
    return parts


def _path(text: str, where: str) -> str:
    """A path relative to the project's folder, beginning with `.`"""
    if text.lower().startswith("file:"):
        text = unquote(text[5:])
        text = text[2:] if text.startswith("//") else text
        text = text.removeprefix("localhost") if text.startswith("localhost/") else text
    text = text.replace("${PROJECT_ROOT}", ".")
    if text.startswith("/./"):  # file:///${PROJECT_ROOT}/…
        text = text[1:]
    if text.startswith(("/", "~")) or re.match(r"[A-Za-z]:[\\/]", text):
        raise SpecError(
            f"an absolute path is true on one machine only: {without_credentials(text)}",
            where=where,
            fix="write it relative to the project's folder, as in ../lib; or the version, if "
                "`pip freeze` wrote this: `pip list --format=freeze` writes versions")
    path = posixpath.normpath(text)
    return path if path == "." or path.startswith("../") or path == ".." else f"./{path}"


def _name(name: str, where: str) -> str:
    from packaging.utils import InvalidName, canonicalize_name

    if not name:
        return ""
    try:
        return str(canonicalize_name(name, validate=True))
    except InvalidName:
        raise SpecError(f"not a package's name: {without_credentials(name)}", where=where,
                        fix="use letters, digits, '.', '_' and '-'") from None


def _extras(text: str, where: str) -> tuple[str, ...]:
    return tuple(sorted({_name(part.strip(), where) for part in text.split(",") if part.strip()}))


def _marker(text: str, where: str) -> str:
    from packaging.markers import InvalidMarker, Marker

    if not text:
        return ""
    try:
        return str(Marker(text))
    except (InvalidMarker, SyntaxError, RecursionError) as error:
        raise SpecError(without_credentials(f"not a marker: {text} ({str(error).splitlines()[0]})"),
                        where=where,
                        fix="write it as in `; python_version < '3.12'`") from None


def _subdirectory(text: str, where: str) -> str:
    path = posixpath.normpath(text) if text else ""
    if path == ".":
        return ""
    if path.startswith(("/", "..")) or any(ord(letter) < 32 for letter in path):
        raise SpecError(
            f"a subdirectory leaves its repository: {without_credentials(text)}",
            where=where,
            fix="name a folder within it")
    return path
