"""/etc/apt -> where this machine gets its packages, in both formats (sources.list(5))."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from toolchain.values import dataclass

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@dataclass(frozen=True, slots=True, kw_only=True)
class AptSource:
    """One line of apt's sources: an archive's root and a suite of it."""

    root: str
    suite: str
    keyring: Path


def apt_sources(apt: Path) -> list[AptSource]:
    """Every source of binary packages that can be fetched from here. `apt` is the folder of its
    settings."""
    return [replace(source, root=root.rstrip("/")) for source in _written(apt)
            if (root := _root(source.root))]


def _written(apt: Path) -> list[AptSource]:
    """The sources as the files have them, whatever apt's transport is."""
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
                yield AptSource(root=root, suite=suite, keyring=keyring)


def _line_sources(text: str) -> Iterator[AptSource]:
    for line in text.splitlines():
        match = re.match(r"deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)(.*)", line.strip())
        if match and "main" in match[4].partition("#")[0].split():
            signed = re.search(r"signed-by=(\S+)", match[1] or "")
            yield AptSource(root=match[2], suite=match[3],
                            keyring=_keyring(signed[1] if signed else ""))


def _root(uri: str) -> str:
    """Where an archive really is; empty if only apt has the transport for it."""
    if uri.startswith("mirror+file:"):
        return _first_mirror(Path(unquote(urlsplit(uri).path)))
    return uri if _is_fetched(uri) else ""


def _first_mirror(path: Path) -> str:
    """The mirror of a list that apt would try first, of those that have everything.

    Source: apt-transport-mirror(1). A line is a URI and, after a tab, options; mirrors of equal
    priority are alike, and one without a priority is of the last.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    found: list[tuple[float, str]] = []
    for line in lines:
        uri, *options = line.split() or [""]
        # A line with a type is for some files only, such as the lists without the packages.
        if _is_fetched(uri) and not any(option.startswith("type:") for option in options):
            priority = re.search(r"(?:^| )priority:(\d+)", " ".join(options))
            found.append((float(priority[1]) if priority else float("inf"), uri))
    return min(found, key=lambda item: item[0])[1] if found else ""


def _is_fetched(uri: str) -> bool:
    return uri.startswith(("http://", "https://", "file:"))


def _keyring(signed_by: str) -> Path:
    # gpgv reads binary keyrings; a key within the file or an armored one falls back to Debian's.
    path = Path(signed_by.split(",")[0]) if signed_by.startswith("/") else KEYRING
    return path if path.suffix == ".gpg" else KEYRING
