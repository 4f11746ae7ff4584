"""A clear-signed document, such as Debian's InRelease -> its text, if the signature is good.

gpgv checks it or, where only that is there, sqv, which apt itself uses from Debian 13 on. sqv is
handed text and signature apart, as apt does it: that of Debian 12 knows nothing else.
Source: RFC 9580, section 7; sqv(1); apt's method `sqv`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from toolchain.adapters.scratch import scratch_folder
from toolchain.errors import ResolveError, without_credentials

_BEGIN, _SIGNATURE, _END = (b"-----BEGIN PGP SIGNED MESSAGE-----", b"-----BEGIN PGP SIGNATURE-----",
                            b"-----END PGP SIGNATURE-----")


def verify(signed: bytes, keyring: Path, where: str) -> str:
    """The text of a clear-signed document whose signature is good, and nothing that stands around
    it.

    Raises ResolveError if it is not, or cannot be checked on this machine.
    """
    if not keyring.exists():
        raise ResolveError("Debian's keyring is not on this machine", where=str(keyring),
                           fix="install the package debian-archive-keyring")
    if shutil.which("gpgv"):
        text, said = _by_gpgv(signed, keyring)
    elif shutil.which("sqv"):
        text, said = _by_sqv(signed, keyring)
    else:
        raise ResolveError("neither gpgv nor sqv is on this machine", where="PATH",
                           fix="install the package gpgv, or the package sqv")
    if text is None:
        lines = [line for line in said.splitlines() if line.strip()]
        raise ResolveError(
            f"the archive's signature is not good: {lines[-1] if lines else 'no signature'}",
            where=without_credentials(where),
            fix="do not use this mirror; or install a newer debian-archive-keyring",
        )
    return text.decode(errors="replace")


def _by_gpgv(signed: bytes, keyring: Path) -> tuple[bytes | None, str]:
    """The text, or None, and what was said."""
    with scratch_folder() as folder:
        document, text = folder / "InRelease", folder / "Release"
        document.write_bytes(signed)
        done = subprocess.run(
            ["gpgv", "--quiet", "--keyring", str(keyring.resolve()), "--output", str(text),
             str(document)], capture_output=True, text=True, errors="replace")
        good = done.returncode == 0 and text.exists()
        return text.read_bytes() if good else None, done.stderr


def _by_sqv(signed: bytes, keyring: Path) -> tuple[bytes | None, str]:
    """The text, or None, and what was said."""
    parts = split(signed)
    if parts is None:
        return None, "no clear-signed document"
    with scratch_folder() as folder:
        text, signature = folder / "Release", folder / "Release.sig"
        text.write_bytes(parts[0])
        signature.write_bytes(parts[1])
        done = subprocess.run(
            ["sqv", "--keyring", str(keyring.resolve()), str(signature), str(text)],
            capture_output=True, text=True, errors="replace")
    # It names the key of each good signature.
    good = done.returncode == 0 and done.stdout.strip()
    return parts[0] if good else None, done.stderr


def split(signed: bytes) -> tuple[bytes, bytes] | None:
    """The text that was signed, and the signature; None for anything but one clear-signed document
    and nothing around it."""
    lines = [line.rstrip(b" \t\r") for line in signed.split(b"\n")]
    while lines and not lines[-1]:
        lines.pop()
    if lines.count(_SIGNATURE) != 1 or lines[0] != _BEGIN or lines[-1] != _END:
        return None
    middle = lines.index(_SIGNATURE)
    if b"" not in lines[:middle]:
        return None
    blank = lines.index(b"")
    headers, body = lines[1:blank], lines[blank + 1:middle]
    if any(not line.startswith(b"Hash: ") for line in headers) or lines.count(_END) != 1 \
            or any(re.match(rb"-(?! )", line) for line in body):
        return None
    text = b"\n".join(line.removeprefix(b"- ") for line in body)
    return text, b"\n".join(lines[middle:]) + b"\n"

