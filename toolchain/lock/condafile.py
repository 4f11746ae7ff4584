"""CondaLock <-> conda.lock, a lock file of rattler's, in the form of a pixi.lock.

Its form is version 6 of rattler's. What rattler leaves out since the file's name or the build tells
it is left out here too. A line in its comments records the digest of the request it answers: while
that matches, nothing is resolved. Rattler itself is needed neither to write it nor to read it.

Rule 1: no credentials and no mirror are in it. A channel with a name stands in it by conda's own
URL of that name, another one by its URL without user, password and token, one in the workspace by
its path from the lock.
Rule 2: which channel of the environment file a package is from follows from its URL. So the lock of
one mirror is that of another.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from urllib.parse import quote, unquote, urlsplit

from toolchain.digest import Digest
from toolchain.errors import ResolveError, SpecError
from toolchain.lock.conda import SUBDIRS, CondaLock, CondaPackage, CondaRequest, Described
from toolchain.lock.yamlnode import Node
from toolchain.spec import yamltext
from toolchain.spec.yamltext import Located

_VERSION = "6"
_ENVIRONMENT = "default"
NAMED = "https://conda.anaconda.org"  # where conda looks for a channel that has only a name
_PORTS = {"http": 80, "https": 443}
_HEADER = re.compile(r"^# toolchain: input=(sha256:[0-9a-f]{64})$", re.MULTILINE)
_SUFFIX = re.compile(r"\.conda\Z|\.tar\.bz2\Z")
_PYTHON = re.compile(r"pkg:pypi/([^@?#/]+)@([^@?#/]+)")
_IN_PATHS = "/%:@!$&()*+,;=~'"  # what no URL has to quote there
_KINDS = ("python", "generic")
_NONE = "not a lock of conda packages by this tool"
_FIX = ("take it from version control, or delete it and run `doit resolve`; a lock made elsewhere "
        "is not read")
_PLAIN = re.compile(r"[A-Za-z_/.][A-Za-z0-9_./@+!%~^|<>=*,$(){}\[\]-]*"
                    r"(?:[ :][A-Za-z0-9_./@+!%~^|<>=*,$(){}\[\]-]+)*")
_SHA256 = re.compile(r"(?![0-9]*e?[0-9]*\Z)[0-9a-f]{64}")  # and not by chance a number


def to_text(lock: CondaLock, channels: Iterable[str], folder: str) -> str:
    """The content of conda.lock. `channels` are those of the request, `folder` is that of the lock,
    from the workspace's root."""
    urls = [address(channel, folder) for channel in channels]
    files = {package: _location(package, folder) for package in lock.packages}
    subdir = SUBDIRS[lock.platform][0]
    return "\n".join([
        "# Pinned by `doit resolve`; commit this file. To move the pins: "
        "doit resolve project=NAME upgrade=1",
        f"# toolchain: input={lock.input}",
        f"version: {_VERSION}",
        "environments:",
        f"  {_ENVIRONMENT}:",
        *_list("channels", [f"url: {_scalar(f'{url}/')}" for url in dict.fromkeys(urls)], "    "),
        "    packages:",
        *_list(subdir, [f"conda: {_scalar(file)}" for file in files.values()], "      "),
        *_list("packages", ["\n".join(_lines(package, file)) for package, file in files.items()]),
    ]) + "\n"


def from_text(text: str, where: str, wanted: CondaRequest, folder: str) -> CondaLock:
    """Read conda.lock, whether it answers `wanted` or another request. Raises ResolveError with the
    line that is wrong."""
    headers = _HEADER.findall(text)
    if len(headers) != 1:
        raise ResolveError(
            f"{_NONE}: it has {'several' if headers else 'no'} `# toolchain: input=` lines",
            where=where, fix=_FIX)
    try:
        document = yamltext.load(text, where)
    except SpecError as error:
        raise ResolveError(f"{_NONE}: {error.what}", where=error.where, fix=_FIX) from None
    node = Node(value=document, where=where, path="", what=_NONE, fix=_FIX)
    if document.doubles:
        key, line = document.doubles[0]
        raise replace(node, value=Located(None, line)).bad(f"the key {key!r} is there twice")
    return _Reading(wanted, folder).lock(node, Digest.parse(headers[0]))


def address(channel: str, folder: str) -> str:
    """A channel of a request as a lock in `folder` has it: a URL, or a path from there."""
    if channel.startswith("./"):
        path = posixpath.relpath(posixpath.join("/", channel), posixpath.join("/", folder))
        return path if path.startswith("../") or path == ".." else f"./{path}"
    if "://" not in channel:
        return f"{NAMED}/{channel}"
    parts = urlsplit(channel)
    host = parts.netloc.rpartition("@")[2].lower()
    host = host.removesuffix(f":{_PORTS.get(parts.scheme, '')}")
    path = re.sub(r"\A/t/[^/]+", "", parts.path)
    if re.search(r"/\.\.?(/|\Z)", path):
        path = posixpath.normpath(path)
    return f"{parts.scheme}://{host}{quote(path, safe=_IN_PATHS)}".rstrip("/")


def _location(package: CondaPackage, folder: str) -> str:
    return f"{address(package.channel, folder)}/{package.subdir}/{package.file}"


def _lines(package: CondaPackage, file: str) -> Iterator[str]:
    """An entry of `packages`, in the order of rattler's own."""
    described = package.described
    yield f"conda: {_scalar(file)}"
    named = {"name": package.name, "version": package.version, "build": package.build}
    if tuple(named.values()) != _named_by(package.file):
        yield from (f"{key}: {_scalar(text)}" for key, text in named.items())
    if described.build_number != _build_number(package.build):
        yield f"build_number: {described.build_number}"
    yield f"subdir: {_scalar(package.subdir)}"  # rattler finds it in URLs of https alone
    if described.noarch not in ("", _noarch(package.subdir, package.build)):
        yield f"noarch: {described.noarch}"
    yield f"sha256: {_scalar(package.sha256.hex)}"
    yield from _optional("depends", described.depends)
    yield from _optional("constrains", described.constrains)
    yield from _optional("purls", map(_purl, package.python))
    yield f"size: {package.size}"
    if described.site_packages:
        yield f"python_site_packages_path: {_scalar(described.site_packages)}"


def _list(key: str, items: Iterable[str], indent: str = "") -> Iterator[str]:
    """A key with a list, whose items may have several lines."""
    found = list(items)
    yield f"{indent}{key}:" if found else f"{indent}{key}: []"
    for item in found:
        yield f"{indent}- " + item.replace("\n", f"\n{indent}  ")


def _optional(key: str, texts: Iterable[str]) -> Iterator[str]:
    found = [_scalar(text) for text in texts]
    return _list(key, found) if found else iter(())


def _scalar(text: str) -> str:
    is_word = text.lower() in yamltext.WORDS or (text[:1] == "." and "/" not in text)
    if _SHA256.fullmatch(text) or (_PLAIN.fullmatch(text) and not is_word):
        return text
    if text.isprintable():
        return "'" + text.replace("'", "''") + "'"
    return '"' + "".join(letter if letter.isprintable() and letter not in '"\\' else
                         f"\\U{ord(letter):08x}" for letter in text) + '"'


def _purl(distribution: str) -> str:
    name, _, version = distribution.partition("==")
    return f"pkg:pypi/{quote(name)}@{quote(version, safe='!+')}"


def _named_by(file: str) -> tuple[str, str, str]:
    """Name, version and build in a package's file name; empty where it has another form."""
    parts = _SUFFIX.sub("", file).rsplit("-", 2)
    return (parts[0], parts[1], parts[2]) if len(parts) == 3 else ("", "", "")


def _build_number(build: str) -> int:
    found = re.search(r"[0-9]{1,15}\Z", build)
    return int(found[0]) if found else 0


def _noarch(subdir: str, build: str) -> str:
    if subdir != "noarch":
        return ""
    return "python" if "py" in build else "generic"


class _Reading:
    """A file on its way to a CondaLock."""

    def __init__(self, wanted: CondaRequest, folder: str) -> None:
        self._wanted = wanted
        self._folder = folder
        self._channels: dict[str, str] = {}
        for channel in wanted.channels:
            self._channels.setdefault(address(channel, folder), channel)

    def lock(self, document: Node, input: Digest) -> CondaLock:
        version = document.get("version")
        if version.text() != _VERSION:
            raise version.bad(f"of rattler's forms only version {_VERSION} is read here")
        if (environments := document.get("environments")).keys() != [_ENVIRONMENT]:
            raise environments.bad(f"there is another environment than {_ENVIRONMENT!r}")
        for channel in environments.get(_ENVIRONMENT).get("channels").items():
            channel.get("url").text()
        listed = environments.get(_ENVIRONMENT).get("packages")
        is_current = input == Digest.of_json(self._wanted.plan())
        platforms = [name for name, (subdir, _) in SUBDIRS.items() if listed.keys() == [subdir]]
        if not platforms or (is_current and platforms != [self._wanted.platform]):
            raise listed.bad(f"this is not for {self._wanted.platform}")
        files = sorted(item.get("conda").text()
                       for item in listed.get(SUBDIRS[platforms[0]][0]).items())
        packages: dict[str, CondaPackage] = {}
        for item in document.get("packages").items():
            package = self._package(item)
            if package.name in packages:  # left by a merge of two branches
                raise item.bad(f"{package.name} is pinned twice")
            if is_current and package.channel not in self._wanted.channels:
                raise item.bad(f"{package.name} is from no channel of the environment file")
            packages[package.name] = package
        if files != sorted(item.get("conda").text() for item in document.get("packages").items()):
            raise listed.bad("these are others than those that are described below")  # so too
        return CondaLock(platform=platforms[0], packages=tuple(sorted(packages.values())),
                         input=input)

    def _package(self, item: Node) -> CondaPackage:
        location = item.get("conda").text()
        channel, subdir, file = ["", "", *location.rsplit("/", 2)][-3:]
        name, version, build = _named_by(file)
        build = item.text_of("build", build)
        if item.text_of("subdir", subdir) != subdir:
            raise item.get("subdir").bad(f"the file is in another: {location[:200]}")
        noarch = item.text_of("noarch", _noarch(subdir, build))
        if noarch and noarch not in _KINDS:
            raise item.get("noarch").bad(f"no kind of package: {noarch[:40]}")
        described = Described(
            build_number=(item.get("build_number").number() if item.has("build_number")
                          else _build_number(build)),
            noarch=noarch, depends=tuple(item.texts_of("depends")),
            constrains=tuple(item.texts_of("constrains")),
            site_packages=item.text_of("python_site_packages_path", ""))
        try:
            return CondaPackage(
                name=item.text_of("name", name), version=item.text_of("version", version),
                build=build, channel=self._channel(channel), subdir=subdir, file=file,
                size=item.get("size").number(), sha256=Digest(item.get("sha256").text()),
                python=tuple(_distributions(item)), described=described)
        except ValueError as error:
            raise item.bad(str(error)) from None

    def _channel(self, location: str) -> str:
        if location in self._channels or "://" in location:
            return self._channels.get(location, location)
        # Of another request, and asked for no more than its file's name.
        return f"./{posixpath.normpath(posixpath.join(self._folder, location))}"


def _distributions(item: Node) -> Iterator[str]:
    for text in item.texts_of("purls"):
        if text.startswith("pkg:pypi/"):
            match = _PYTHON.fullmatch(text)
            if match is None:
                raise item.get("purls").bad(f"no distribution with its version: {text[:80]}")
            yield f"{unquote(match[1])}=={unquote(match[2])}"
