"""pip's and uv's settings -> environment variables for uv.

Whoever set pip up on this machine (index, extra indexes, find-links, CA bundle) means it for
every installer. uv does not read pip's settings, so they are handed over, unless uv has settings
of its own. Everything goes through the environment: an index URL may hold a password, and command
lines can be read by anyone on the machine.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from toolchain.adapters.variables import filled
from toolchain.spec.options import Options

_UV_OWN = ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS",
           "UV_CONFIG_FILE", "UV_NO_INDEX")


def uv_environment(environ: Mapping[str, str], workspace: Path | None = None) -> dict[str, str]:
    """`environ` with what uv needs to look where pip would look.

    uv runs in a folder of its own; a uv.toml at the workspace's root is named to it.
    """
    result = dict(environ)
    if workspace is not None and "UV_CONFIG_FILE" not in result:
        own = workspace / "uv.toml"
        if own.exists():
            result["UV_CONFIG_FILE"] = str(own)
    for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX"):
        result.pop(name, None)
    pip = _pip_settings(environ)
    if "SSL_CERT_FILE" not in result:
        certificate = pip.get("cert") or environ.get("REQUESTS_CA_BUNDLE")
        if certificate:
            result["SSL_CERT_FILE"] = certificate
    if any(name in result for name in _UV_OWN) or _has_uv_configuration(environ):
        return result
    if pip.get("index-url"):
        result["UV_DEFAULT_INDEX"] = pip["index-url"]
    if pip.get("extra-index-url"):
        # pip takes the best version from all indexes alike; uv by default stops at the first
        # index that has the name.
        result["UV_EXTRA_INDEX_URL"] = " ".join(pip["extra-index-url"].split())
        result["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    if pip.get("find-links"):
        result["UV_FIND_LINKS"] = ",".join(pip["find-links"].split())
    if pip.get("trusted-host"):
        result["UV_INSECURE_HOST"] = " ".join(pip["trusted-host"].split())
    if pip.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        result["UV_NO_INDEX"] = "1"
    return result


def with_options(environ: Mapping[str, str], lines: tuple[str, ...],
                 folder: Path | None) -> dict[str, str]:
    """`environ` with what a project's own requirements file says of indexes, as pip takes it: its
    --index-url stands for all that the machine has set, the rest is added.

    Paths begin in `folder`. Raises ResolveError for a `${NAME}` that is not set.
    """
    result = dict(environ)
    options = Options.from_lines(lines)
    if options.index or options.no_index:
        for name in _UV_OWN:
            if name not in ("UV_CONFIG_FILE", "UV_FIND_LINKS"):
                result.pop(name, None)
    if options.no_index:
        result["UV_NO_INDEX"] = "1"
    if options.index:
        result["UV_DEFAULT_INDEX"] = filled(options.index, environ)
    if options.extra_indexes:
        own = [filled(url, environ) for url in options.extra_indexes]
        result["UV_INDEX"] = " ".join([*result.get("UV_INDEX", "").split(), *own])
        result.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    if options.find_links:
        places = [filled(place, environ) if "://" in place else str((folder or Path()) / place)
                  for place in options.find_links]
        result["UV_FIND_LINKS"] = ",".join(filter(None, [result.get("UV_FIND_LINKS"), *places]))
    if options.pre:
        result["UV_PRERELEASE"] = "allow"
    return result


def credentials(environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """host -> (user, password) from the index URLs in uv's environment."""
    found: dict[str, tuple[str, str]] = {}
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_INDEX"):
        for url in environ.get(name, "").split():
            try:
                parts = urlsplit(url.partition("=")[2] if "=http" in url else url)
            except ValueError:
                continue  # uv will say what is wrong with it
            if parts.hostname and parts.username:
                found[parts.hostname] = (unquote(parts.username), unquote(parts.password or ""))
    return found


def _pip_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """pip's effective settings: files from the general to the special, then PIP_* variables."""
    home = Path(environ.get("HOME", "/"))
    files = [
        Path("/etc/xdg/pip/pip.conf"), Path("/etc/pip.conf"), home / ".pip/pip.conf",
        Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip/pip.conf",
    ]
    if environ.get("VIRTUAL_ENV"):
        files.append(Path(environ["VIRTUAL_ENV"]) / "pip.conf")
    chosen = environ.get("PIP_CONFIG_FILE")
    if chosen == os.devnull:
        files = []
    elif chosen:
        files.append(Path(chosen))
    settings: dict[str, str] = {}
    for path in files:
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError):
            continue  # pip itself will complain where it matters
        for section in ("global", "install", "download"):
            if parser.has_section(section):
                settings.update({key.replace("_", "-"): value
                                 for key, value in parser.items(section) if value})
    for name, value in environ.items():
        if name.startswith("PIP_") and value:
            settings[name[4:].lower().replace("_", "-")] = value
    return settings


def _has_uv_configuration(environ: Mapping[str, str]) -> bool:
    home = Path(environ.get("HOME", "/"))
    user = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "uv/uv.toml"
    return user.exists() or Path("/etc/uv/uv.toml").exists()
