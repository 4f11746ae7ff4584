"""Tiny .deb packages, and a Debian mirror of them that is signed with a key made for the test."""

from __future__ import annotations

import hashlib
import io
import lzma
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path

from tests.support.services import need
from toolchain.adapters.debian import SEEDS


def member(path: str, data: bytes = b"", *, kind: bytes = tarfile.REGTYPE, link: str = "",
           mode: int = 0o644) -> tuple[tarfile.TarInfo, bytes]:
    """A tar member, however strange."""
    info = tarfile.TarInfo(path)
    info.type, info.linkname, info.mode, info.size = kind, link, mode, len(data)
    return info, data


def deb(name: str, version: str = "1.0-1", *, depends: str = "", fields: str = "",
        members: Iterable[tuple[tarfile.TarInfo, bytes]] | None = None,
        architecture: str = "amd64", postinst: str = "") -> bytes:
    """The bytes of a package; by default with one file, usr/share/<name>."""
    control = (f"Package: {name}\nVersion: {version}\nArchitecture: {architecture}\n"
               f"Maintainer: nobody <nobody@example.invalid>\nPriority: required\n"
               + (f"Depends: {depends}\n" if depends else "") + fields
               + "Description: for a test\n")
    if members is None:
        members = [member(f"./usr/share/{name}", name.encode())]
    parts = [
        ("debian-binary", b"2.0\n"),
        ("control.tar.xz", _tar([
            member("./control", control.encode()),
            *([member("./postinst", postinst.encode(), mode=0o755)] if postinst else [])])),
        ("data.tar.xz", _tar(members)),
    ]
    result = b"!<arch>\n"
    for filename, data in parts:
        result += f"{filename:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
        result += data + (b"\n" if len(data) % 2 else b"")
    return result


def python_deb(python: str = "3.11") -> bytes:
    """What the base needs to see of python3."""
    return deb("python3", f"{python}.2-1", depends="libpython3-stdlib", members=[
        member("./usr/bin/", kind=tarfile.DIRTYPE, mode=0o755),
        member(f"./usr/bin/python{python}", b"#!/bin/sh\n", mode=0o755),
        member("./usr/bin/python3", kind=tarfile.SYMTYPE, link=f"python{python}"),
    ])


def default_packages() -> dict[str, bytes]:
    """One small package for everything that a base asks for."""
    packages = {name: deb(name) for name in SEEDS}
    packages["python3"] = python_deb()
    packages["libpython3-stdlib"] = deb("libpython3-stdlib")
    packages["libc6"] = deb("libc6", members=[
        member("./lib64/ld-linux-x86-64.so.2", b"loader", mode=0o755),
        member("./lib/x86_64-linux-gnu/libc.so.6", b"libc"),
    ])
    packages["bash"] = deb("bash", depends="libc6 (>= 1.0)")
    return packages


class Mirror:
    """A mirror in a folder; `url` is its root, `keyring` what it is signed with."""

    def __init__(self, folder: Path, suite: str = "bookworm") -> None:
        self.folder = folder
        self.suite = suite
        self.keyring = folder / "keyring.gpg"
        self._home = folder / "gnupg"
        self._home.mkdir(parents=True, mode=0o700)
        self._gpg("--quick-gen-key", "--passphrase", "", "test <test@example.invalid>",
                  "ed25519", "sign", "never")
        self._gpg("--output", str(self.keyring), "--export")

    @property
    def url(self) -> str:
        return (self.folder / "debian").as_uri()

    def publish(self, packages: dict[str, bytes] | None = None,
                architecture: str = "amd64") -> None:
        """Write pool, Packages and a signed InRelease, for one architecture."""
        paragraphs = []
        for name, data in (default_packages() if packages is None else packages).items():
            path = f"pool/main/{name}_{hashlib.sha256(data).hexdigest()[:12]}_{architecture}.deb"
            target = self.folder / "debian" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            control = _control(data)
            paragraphs.append(f"{control.strip()}\nFilename: {path}\nSize: {len(data)}\n"
                              f"SHA256: {hashlib.sha256(data).hexdigest()}\n")
        compressed = lzma.compress("\n".join(paragraphs).encode())
        digest = hashlib.sha256(compressed).hexdigest()
        dist = self.folder / "debian" / "dists" / self.suite
        by_hash = dist / "main" / f"binary-{architecture}" / "by-hash" / "SHA256"
        by_hash.mkdir(parents=True, exist_ok=True)
        (by_hash / digest).write_bytes(compressed)
        release = (f"Origin: test\nCodename: {self.suite}\nSHA256:\n"
                   f" {digest} {len(compressed)} main/binary-{architecture}/Packages.xz\n")
        (dist / "Release").write_text(release)
        (dist / "InRelease").unlink(missing_ok=True)
        self.sign(dist / "Release", dist / "InRelease")

    def sign(self, text: Path, signed: Path) -> None:
        """Sign a text in the clear."""
        self._gpg("--clearsign", "--output", str(signed), str(text))

    def _gpg(self, *arguments: str) -> None:
        subprocess.run([need("gpg"), "--homedir", str(self._home), "--batch", "--quiet", "--yes",
                        *arguments], check=True, capture_output=True)
        # Its agent would outlive the tests, for as long as the folder is kept.
        subprocess.run(["gpgconf", "--homedir", str(self._home), "--kill", "gpg-agent"], check=True)


def _control(data: bytes) -> str:
    from debian.debfile import DebFile

    return str(DebFile(fileobj=io.BytesIO(data)).control.get_content(
        "control", encoding="utf-8"))


def _tar(members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:xz") as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()
