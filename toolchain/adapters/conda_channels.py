"""A channel as a lock names it -> where it is, and what it takes to be let in."""

from __future__ import annotations

import base64
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from toolchain.errors import ConfigError, ResolveError
from toolchain.lock.conda import Unreachable
from toolchain.lock.condafile import NAMED
from toolchain.values import dataclass

_VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """Where a channel is. `url` holds no secret; `secrets` must be shown nowhere.

    header: what Authorization has to be there. real: its URL with a token in its path, if any.
    """

    text: str
    url: str
    header: str = ""
    real: str = ""
    secrets: tuple[str, ...] = ()

    @property
    def folder(self) -> Path | None:
        """Where it is on this machine, if it is here."""
        if not self.url.startswith("file:"):
            return None
        return Path(unquote(urlsplit(self.url).path))

    def file(self, subdir: str, name: str) -> str:
        """The URL of a file."""
        return f"{self.url}/{subdir}/{quote(name)}"


class Channels:
    """The channels of one workspace.

    `root` is what their paths are relative to; `alias` is the URL before a channel's name, conda's
    own if it is empty; `environ` has what `${NAME}` in a URL stands for. `find` and `check` raise
    ResolveError.
    """

    def __init__(self, *, root: Path, alias: str, environ: Mapping[str, str]) -> None:
        self._root = root
        self._alias = alias
        self._environ = environ
        self._known: dict[str, Channel] = {}

    def find(self, text: str) -> Channel:
        if text not in self._known:
            self._known[text] = self._located(text)
        return self._known[text]

    def check(self, channel: Channel) -> None:
        """Raises Unreachable for a folder that is no channel."""
        if channel.folder and not (channel.folder / "noarch" / "repodata.json").exists():
            raise Unreachable("there is no conda channel", where=f"channel {channel.text}",
                              fix="check its path; a channel has noarch/repodata.json")

    def _located(self, text: str) -> Channel:
        if text.startswith("./"):
            return Channel(text=text, url=(self._root / text).resolve().as_uri())
        if "://" not in text:
            return Channel(text=text, url=f"{self._alias.rstrip('/') or NAMED}/{text}")
        secrets: list[str] = []

        def value(match: re.Match[str]) -> str:
            found = self._environ.get(match[1], "")
            if not found:
                raise ResolveError(f"the variable {match[1]} is not set", where=f"channel {text}",
                                   fix="set it to what the channel asks for")
            secrets.append(found)
            return quote(found, safe="")

        parts = urlsplit(_VARIABLE.sub(value, text))
        user, at, host = parts.netloc.rpartition("@")
        header = ""
        if at:
            pair = ":".join(unquote(part) for part in user.split(":", 1))
            header = f"Basic {base64.b64encode(pair.encode()).decode()}"
            secrets.append(header.removeprefix("Basic "))
        path = re.sub(r"\A/t/[^/]+", "", parts.path) if "/t/" in text else parts.path
        clean = f"{parts.scheme}://{host}{path}".rstrip("/")
        real = f"{parts.scheme}://{host}{parts.path}".rstrip("/")
        return Channel(text=text, url=clean, header=header, real=real if real != clean else "",
                        secrets=tuple(secrets))


def require() -> None:
    """Raise ConfigError unless rattler is installed; it is not loaded here."""
    try:
        found = importlib.util.find_spec("rattler")
    except ValueError:  # something else says that it is no module
        found = None
    if found is None:
        raise ConfigError(
            "conda packages need the package `py-rattler`, which is not installed",
            where="conda.yaml", fix="pip install 'mlproject-toolchain[conda]'")
