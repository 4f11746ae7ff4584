"""A CA and certificates for this machine's loopback, made with the `openssl` program."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.services import need


@dataclass(frozen=True, slots=True)
class Certificate:
    """Two PEM files."""

    certificate: Path
    key: Path


def _openssl(*words: object) -> None:
    subprocess.run([need("openssl"), *map(str, words)], check=True, capture_output=True)


def make_ca(folder: Path) -> Certificate:
    """A CA of its own; nobody trusts it yet."""
    made = Certificate(folder / "ca.crt", folder / "ca.key")
    _openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
             "-keyout", made.key, "-out", made.certificate, "-days", 2, "-subj", "/CN=test CA",
             "-addext", "keyUsage=critical,keyCertSign")
    return made


def make_server(folder: Path, ca: Certificate, *names: str) -> Certificate:
    """A server's certificate for 127.0.0.1, localhost and those names, signed by the CA."""
    made = Certificate(folder / "server.crt", folder / "server.key")
    request, extensions = folder / "server.csr", folder / "server.ext"
    also = "".join(f",DNS:{name}" for name in names)
    extensions.write_text(f"subjectAltName=IP:127.0.0.1,DNS:localhost{also}\n")
    _openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
             "-keyout", made.key, "-out", request, "-subj", "/CN=test server")
    _openssl("x509", "-req", "-in", request, "-CA", ca.certificate, "-CAkey", ca.key,
             "-CAcreateserial", "-out", made.certificate, "-days", 2, "-extfile", extensions)
    return made
