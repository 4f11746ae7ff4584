"""A pinned Python package -> whose it is: the same answer in every document.

Only what an index gave, or a URL, is said to be the project of that name there. A folder or file of
the workspace may have any name.
Source: package URLs, https://github.com/package-url/purl-spec (types `pypi` and `generic`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolchain.errors import without_credentials
from toolchain.lock import Package
from toolchain.spec.source import FILE, FOLDER, GIT, URL

if TYPE_CHECKING:
    from packageurl import PackageURL


def purl(package: Package) -> PackageURL:
    from packageurl import PackageURL

    of = {GIT: {"vcs_url": place(package)}, URL: {"download_url": place(package)}}
    return PackageURL("generic" if package.kind in (FOLDER, FILE) else "pypi", name=package.name,
                      version=package.version, qualifiers=of.get(package.kind))


def place(package: Package) -> str:
    """Where a package is from that is of no index: a path or URL, without a login."""
    return without_credentials(package.source.partition("#")[0])
