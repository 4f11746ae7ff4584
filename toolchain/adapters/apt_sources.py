"""/etc/apt -> where this machine gets its packages, in both formats (sources.list(5))."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@dataclass(frozen=True, slots=True, kw_only=True)
class AptSource:
    """One line of apt's sources: an archive's root and a suite of it."""

    root: str
    suite: str
    keyring: Path


def apt_sources(apt: Path) -> list[AptSource]:
    """Every source of binary packages. `apt` is the folder of its settings."""
    sources: list[AptSource] = []
    files = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]
    for path in files:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if path.suffix == ".sources":
            sources.extend(_deb822_sources(text))
        elif path.suffix == ".list":
            sources.extend(_line_sources(text))
    return sources


def _deb822_sources(text: str) -> Iterator[AptSource]:
    from debian.deb822 import Deb822

    for entry in Deb822.iter_paragraphs(text):
        if entry.get("Enabled", "yes").lower() in ("no", "false", "0"):
            continue
        if "deb" not in entry.get("Types", "").split():
            continue
        keyring = _keyring(entry.get("Signed-By", "").strip())
        for root in entry.get("URIs", "").split():
            for suite in entry.get("Suites", "").split():
                if "main" not in entry.get("Components", "").split():
                    continue  # a vendor's own archive, though it may name its suites as Debian
                yield AptSource(root=root.rstrip("/"), suite=suite, keyring=keyring)


def _line_sources(text: str) -> Iterator[AptSource]:
    for line in text.splitlines():
        match = re.match(r"deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)(.*)", line.strip())
        if match and "main" in match[4].partition("#")[0].split():
            signed = re.search(r"signed-by=(\S+)", match[1] or "")
            yield AptSource(root=match[2].rstrip("/"), suite=match[3],
                         keyring=_keyring(signed[1] if signed else ""))


def _keyring(signed_by: str) -> Path:
    # gpgv reads binary keyrings; a key within the file or an armored one falls back to Debian's.
    path = Path(signed_by.split(",")[0]) if signed_by.startswith("/") else KEYRING
    return path if path.suffix == ".gpg" else KEYRING
