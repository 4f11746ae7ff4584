"""Docker's own configuration -> the credentials for one registry.

Source: the Docker client's config.json and the credential helpers' protocol. A helper is a
program `docker-credential-NAME`; called with `get`, it reads the host from stdin and writes JSON.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from toolchain.errors import ConfigError, RegistryError
from toolchain.reference import DOCKER_HUB, api_host, login_name
from toolchain.values import dataclass

_HUB_KEY = "https://index.docker.io/v1/"  # how Docker Hub has been called since before v2
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_NOT_FOUND = "credentials not found"  # the helpers' way to say so, on stdout with exit status 1
_HELPER_SECONDS = 60
_TOKEN_USER = "<token>"  # a helper's user name where the secret is an identity token


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A user with a password, or an identity token. No secret is in its repr."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    def basic(self) -> str:
        """The value of an Authorization header (RFC 7617)."""
        pair = f"{self.username}:{self.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"


def find(host: str, environ: Mapping[str, str]) -> Credential | None:
    """What Docker would say to that registry; None where it knows nothing.

    Raises ConfigError for a config.json that is none, RegistryError for a helper that fails.
    """
    path = _path(environ)
    config = _read(path)
    key = _HUB_KEY if host == api_host(DOCKER_HUB) else host
    helper = _entry(_table(config, "credHelpers", path), key)
    if helper is None:
        helper = config.get("credsStore")
    if helper:
        found = _ask_helper(helper, key, path, environ)
        if found is not None:
            return found
    entry = _entry(_table(config, "auths", path), key)
    return None if entry is None else _from_entry(entry, path, key)


def _path(environ: Mapping[str, str]) -> Path:
    folder = environ.get("DOCKER_CONFIG") or f"{environ.get('HOME') or '~'}/.docker"
    return Path(folder).expanduser() / "config.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path),
                          fix="make it readable, or set DOCKER_CONFIG") from None
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise ConfigError("not Docker's configuration", where=str(path),
                          fix="mend the file, or remove it and use `docker login`")
    return config


def _table(config: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    table = config.get(name) or {}
    if not isinstance(table, dict):
        raise ConfigError(f"{name} is not an object", where=str(path), fix="mend the file")
    return table


def _entry(table: dict[str, Any], key: str) -> Any:
    """The entry of a registry, whose key may also be a URL, as older versions wrote it."""
    if key in table:
        return table[key]
    plain = _plain(key)
    return next((value for name, value in table.items() if _plain(name) == plain), None)


def _plain(key: str) -> str:
    host = key.split("://")[-1].partition("/")[0]
    return api_host(host)


def _from_entry(entry: Any, path: Path, key: str) -> Credential | None:
    try:
        username, password = entry.get("username") or "", entry.get("password") or ""
        if entry.get("auth"):
            pair = base64.b64decode(entry["auth"], validate=True).decode()
            username, colon, password = pair.partition(":")
            if not colon:
                raise ValueError
        # Docker pads what it decodes with NUL.
        found = Credential(username=username, password=password.strip("\0"),
                           identity_token=entry.get("identitytoken") or "")
    except (ValueError, AttributeError, TypeError):
        raise ConfigError("not the credentials of a registry", where=f"{path}, auths.{key!r}",
                          fix=f"use `docker login {login_name(_plain(key))}`") from None
    return found if found.username or found.identity_token else None


def _ask_helper(name: Any, key: str, path: Path, environ: Mapping[str, str]) -> Credential | None:
    import subprocess

    if not isinstance(name, str) or not _HELPER_NAME.match(name):
        raise ConfigError("not the name of a credential helper", where=str(path),
                          fix="NAME stands for the program docker-credential-NAME")
    program = f"docker-credential-{name}"
    fix = f"check `{program} get` with {key} on its standard input, or `docker login` again"
    try:
        done = subprocess.run([program, "get"], input=key.encode(), capture_output=True,
                              timeout=_HELPER_SECONDS, env=dict(environ), check=False)
    except FileNotFoundError:
        raise RegistryError(f"the credential helper {program} is not on PATH", where=str(path),
                            fix="install it, or take it out of the file") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = getattr(error, "strerror", None) or f"no answer in {_HELPER_SECONDS} s"
        raise RegistryError(f"the credential helper {program} cannot be used: {reason}",
                            where=str(path), fix=fix) from None
    if done.returncode != 0:
        if _NOT_FOUND in (done.stdout + done.stderr).decode(errors="replace").lower():
            return None
        # What it wrote is not shown: nobody says that no secret is in it.
        raise RegistryError(f"the credential helper {program} failed with exit status "
                            f"{done.returncode}",
                            where=f"credentials for {login_name(_plain(key))}", fix=fix)
    try:
        answer = json.loads(done.stdout)
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, KeyError, TypeError):
        raise RegistryError(f"the credential helper {program} wrote something that is no answer",
                            where=f"credentials for {login_name(_plain(key))}", fix=fix) from None
    if user == _TOKEN_USER:
        return Credential(identity_token=secret)
    return Credential(username=user, password=secret) if user else None
