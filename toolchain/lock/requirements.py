"""Lock <-> requirements.lock, which pip reads too.

A requirements file with one sha256 for each package: that of the file which is installed on the
lock's platform. It names no index. What is built from a folder or a repository stands in comments,
since pip refuses a whole file if one of its lines can have no hash (docs/decisions/0021).
Its header records the digest of the plan it answers; while that matches, nothing is resolved.
"""

from __future__ import annotations

import re
from pathlib import Path

from toolchain.digest import Digest
from toolchain.errors import ResolveError
from toolchain.lock import Lock, Package, file

FILE_NAME = "requirements.lock"
_HEADER = re.compile(
    r"^# toolchain: python=(\S+) platform=(\S+) input=(sha256:[0-9a-f]{64})$", re.MULTILINE
)
_PINS_IN_COMMENTS = ("# toolchain: source ", "# toolchain: folder ")
_FOLDER = re.compile(r"# toolchain: folder ([a-z0-9]+(?:-[a-z0-9]+)*)==(\S+) (\.\S*.*)\Z")
_SOURCE = re.compile(r"# toolchain: source ([a-z0-9]+(?:-[a-z0-9]+)*)==(\S+) sha256:([0-9a-f]{64}) "
                     r"(\S.*)\Z")
_FILE = re.compile(r"(\S.*?) --hash=sha256:([0-9a-f]{64}) # ([a-z0-9]+(?:-[a-z0-9]+)*)==(\S+)\Z")
_PIN = re.compile(r"([a-z0-9]+(?:-[a-z0-9]+)*)==(\S+) --hash=sha256:([0-9a-f]{64})\Z")
_UNKNOWN = Digest("0" * 64)  # of a folder, until it is looked at


def to_text(lock: Lock) -> str:
    """The content of requirements.lock."""
    lines = [
        "# Pinned by `doit resolve`; commit this file. To move the pins: "
        "doit resolve project=NAME upgrade=1",
        f"# toolchain: python={lock.python} platform={lock.platform} input={lock.input}",
    ]
    lines += [
        f"# toolchain: folder {package.name}=={package.version} {package.source}"
        if package.is_folder else
        f"# toolchain: source {package.name}=={package.version} {package.sha256} {package.source}"
        for package in lock.packages if package.is_built_here
    ]
    lines += [
        f"{package.source} \\\n    --hash={package.sha256} # {package.name}=={package.version}"
        if package.source else
        f"{package.name}=={package.version} \\\n    --hash={package.sha256}"
        for package in lock.packages if not package.is_built_here
    ]
    return "\n".join(lines) + "\n"


def read(path: Path, where: str) -> Lock | None:
    """The lock in a file; None if there is no file. Raises ResolveError."""
    text = file.read(path, where)
    return None if text is None else from_text(text, where)


_CONFLICT = ("<<<<<<< ", ">>>>>>> ")


def from_text(text: str, where: str) -> Lock:
    """Read requirements.lock. Raises ResolveError with the line that is wrong."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(_CONFLICT):
            raise ResolveError(
                "two branches were merged and left a conflict here", where=f"{where}:{number}",
                fix="take either side's file whole, as in `git checkout --ours`, and run "
                    "`doit resolve`, which pins what is missing")
    header = _HEADER.search(text)
    if header is None:
        raise ResolveError(
            "not a lock of this tool: its `# toolchain:` line is missing", where=where,
            fix="delete it and run `doit resolve`; a lock made elsewhere is not read",
        )
    packages: dict[str, Package] = {}
    lines = text.replace("\\\n", " ").splitlines()
    for line in lines:
        entry = " ".join(line.split())
        if not entry or (entry.startswith("#") and not entry.startswith(_PINS_IN_COMMENTS)):
            continue
        package = _package(entry, where)
        if package.name in packages:  # left by a merge of two branches
            raise ResolveError(
                f"{package.name} is pinned twice", where=where,
                fix="keep one of its two lines, or delete the file and run `doit resolve` to "
                    "make it anew",
            )
        packages[package.name] = package
    return Lock(
        python=header[1], platform=header[2], packages=tuple(sorted(packages.values())),
        input=Digest.parse(header[3]),
    )


def _package(entry: str, where: str) -> Package:
    if folder := _FOLDER.fullmatch(entry):
        package = Package(name=folder[1], version=folder[2], sha256=_UNKNOWN, source=folder[3])
        if package.is_folder:  # a file would stay without a hash
            return package
    if source := _SOURCE.fullmatch(entry):
        return Package(name=source[1], version=source[2], sha256=Digest(source[3]),
                       source=source[4])
    if file := _FILE.fullmatch(entry):
        return Package(name=file[3], version=file[4], sha256=Digest(file[2]), source=file[1])
    if pin := _PIN.fullmatch(entry):
        return Package(name=pin[1], version=pin[2], sha256=Digest(pin[3]))
    raise ResolveError(
        f"not a pinned package: {entry[:80]}", where=where,
        fix="each line is name==version --hash=sha256:…; delete the file and run "
            "`doit resolve` to make it anew",
    )
