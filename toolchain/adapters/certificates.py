"""Whom to trust over TLS: this machine's CAs, those that the environment adds, Docker's per host.

Source: Docker's documentation, "Verify repository client with certificates": a folder for each
`host[:port]` with `*.crt` for CAs and `NAME.cert` with `NAME.key` for a client's certificate.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path

from toolchain.errors import ConfigError

_SYSTEM = Path("/etc/docker/certs.d")


def context(host: str, environ: Mapping[str, str], system: Path = _SYSTEM) -> ssl.SSLContext:
    """A context that verifies the server at `host[:port]`. Raises ConfigError.

    SSL_CERT_FILE is in place of the machine's own bundle, as OpenSSL has it; all else is added.
    """
    made = ssl.create_default_context()
    made.set_alpn_protocols(["http/1.1"])
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        if environ.get(name):
            trust(made, Path(environ[name]), name)
    for folder in _folders(environ, system):
        for path in sorted((folder / host).glob("*.crt")):
            trust(made, path, str(path))
        for path in sorted((folder / host).glob("*.cert")):
            present(made, path, path.with_suffix(".key"))
    return made


def _folders(environ: Mapping[str, str], system: Path) -> list[Path]:
    """Docker's folders: of the machine, and of a user whose engine has no root."""
    home = environ.get("XDG_CONFIG_HOME") or f"{environ.get('HOME') or '~'}/.config"
    return [system, Path(home).expanduser() / "docker/certs.d"]


def trust(made: ssl.SSLContext, path: Path, where: str) -> None:
    """Add the certificates of a file or folder. Raises ConfigError."""
    try:
        if path.is_dir():
            made.load_verify_locations(capath=path)
        else:
            made.load_verify_locations(cafile=path)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"no certificates can be read from {path}: "
                          f"{getattr(error, 'strerror', None) or 'not PEM'}", where=where,
                          fix="name a file of certificates in PEM form") from None


def present(made: ssl.SSLContext, path: Path, key: Path | None = None) -> None:
    """Use a client's certificate, and its key from the same file or its own. Raises ConfigError."""
    try:
        # The password stops OpenSSL from asking for one on the terminal.
        made.load_cert_chain(path, key, password="")
    except (OSError, ssl.SSLError) as error:
        raise ConfigError("this client certificate cannot be used: "
                          f"{getattr(error, 'strerror', None) or 'not PEM'}", where=str(path),
                          fix="it needs an unencrypted key in "
                          + (f"{key.name} beside it" if key else "the same file")) from None
