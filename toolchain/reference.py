"""Text -> Reference: image names as Docker reads them; pure.

Source: the grammar of the distribution project's `reference` package. A first part with a dot, a
colon or a capital, or `localhost`, is a registry; without one the registry is docker.io, where a
name of one part stands for `library/…`.
"""

from __future__ import annotations

import re
from typing import NoReturn

from toolchain.digest import Digest
from toolchain.errors import ConfigError, without_credentials
from toolchain.values import dataclass

DOCKER_HUB = "docker.io"
_HUB_NAMES = ("docker.io", "index.docker.io", "registry-1.docker.io")
_HUB_API = "registry-1.docker.io"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
# Compiled when first used: a push reads one name only.
_REPOSITORY = rf"{_PART}(?:/{_PART})*\Z"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::\d{{1,5}})?\Z"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z"
_LONGEST_NAME = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """One image in a registry. `tag` is empty only where `digest` is given."""

    host: str
    repository: str
    tag: str
    digest: Digest | None

    @property
    def wanted(self) -> str:
        """What to ask the registry for: the digest if there is one, else the tag."""
        return str(self.digest) if self.digest else self.tag

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.host}/{self.repository}{tag}{digest}"


def api_host(host: str) -> str:
    """Docker Hub's registry is not at the address in its images' names; all others are."""
    return _HUB_API if host in _HUB_NAMES else host


def login_name(host: str) -> str:
    """What `docker login` calls the registry at that host."""
    return DOCKER_HUB if host in _HUB_NAMES else host


def check_repository(repository: str) -> str:
    """The repository's name if it is one. Raises ConfigError."""
    if not re.match(_REPOSITORY, repository) or len(repository) > _LONGEST_NAME:
        raise ConfigError(f"not a repository name: {repository!r}", where="repository",
                          fix="use lower-case letters, digits, '.', '_', '-' and '/'")
    return repository


def pull_name(setting: str) -> str:
    """What references begin with where pull_registry is set: `host[:port]`, or with a path behind
    it, as proxies have one. Raises ConfigError, which never shows a login."""
    name = _without_scheme(setting)
    host, slash, path = name.partition("/")
    if name and (not re.match(_HOST, host) or (slash and not re.match(_REPOSITORY, path))):
        raise _no_registry(setting, "pull_registry")
    return name


def host_name(setting: str, where: str) -> str:
    """`host[:port]` of a registry, which may have a scheme. Raises ConfigError."""
    name = _without_scheme(setting)
    if not re.match(_HOST, name):
        raise _no_registry(setting, where)
    return name


def _without_scheme(setting: str) -> str:
    return setting.removeprefix("https://").removeprefix("http://").rstrip("/")


def _no_registry(setting: str, where: str) -> ConfigError:
    return ConfigError(f"not a registry: {setting.rpartition('@')[2]!r}", where=where,
                       fix="give host[:port], as in registry.example:5000")


def full_name(name: str) -> str:
    """A name, perhaps with its tag, and the registry that Docker takes it to mean."""
    return "/".join(_split_host(name))


def parse_reference(text: str) -> Reference:
    """`python:3.11-slim`, `localhost:5000/a/b@sha256:…` -> Reference. Raises ConfigError."""
    if "://" in text:
        _refuse(text, "leave out the https:// before the registry")
    name, at, digest_text = text.partition("@")
    digest = None
    if at:
        try:
            digest = Digest.parse(digest_text)
        except ValueError:
            _refuse(text, "after @ comes sha256: and 64 lower-case hexadecimal digits")
    name, tag = _split_tag(name)
    if tag is not None and not re.match(_TAG, tag):
        _refuse(text, "a tag is up to 128 letters, digits, '_', '.' and '-'")
    host, repository = _split_host(name)
    if not re.match(_HOST, host):
        _refuse(text, "give the registry as host[:port]")
    if not re.match(_REPOSITORY, repository) or len(repository) > _LONGEST_NAME:
        _refuse(text, "write it as [host[:port]/]name[:tag][@sha256:…], the name in lower case")
    if re.fullmatch(r"[0-9a-f]{64}", name):
        _refuse(text, "an image's id names nothing in a registry; give its name")
    return Reference(host=host, repository=repository, digest=digest,
                     tag=tag or ("" if digest else "latest"))


def _split_tag(name: str) -> tuple[str, str | None]:
    """A colon after the last slash begins the tag; one before it, a port."""
    start, colon, tag = name.rpartition(":")
    return (start, tag) if colon and "/" not in tag else (name, None)


def _split_host(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if slash and (set(first) & set(".:") or first == "localhost" or first.lower() != first):
        if first not in _HUB_NAMES:
            return first, rest
        name = rest
    return DOCKER_HUB, name if "/" in name else f"library/{name}"


def _refuse(text: str, fix: str) -> NoReturn:
    shown = without_credentials(text)
    if "@" in shown and "@sha256:" not in shown:  # perhaps user:password@host
        shown = f"…@{shown.rpartition('@')[2]}"
    raise ConfigError("not an image reference", where=repr(shown), fix=fix)
