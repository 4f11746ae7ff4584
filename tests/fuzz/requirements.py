"""Random requirements files: whatever is in one, it is read or refused with a SpecError.

    python -m tests.fuzz.requirements --runs 1000000 --seed 1

A line is made of pieces that mean something to the reader, then damaged. What is read must be
read the same again from its own canonical text.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from urllib.parse import urlsplit

from toolchain.errors import SpecError
from toolchain.spec.options import Options
from toolchain.spec.requirements import Requirements
from toolchain.spec.source import Source

_PIECES = (
    "alpha", "Beta_x", "zope.interface", "[a,b]", "[", "]", "==1.0", ">=1,<2", "~=1.4", "!= 3",
    "===x", " ; ", ";", "python_version < '3.12'", "extra == \"x\"", "os_name", " and ", "(", ")",
    " @ ", "@", "git+https://", "git+ssh://git@", "git+file:///", "https://", "http://", "file:",
    "file://", "host.invalid", "/", "..", ".", "./", "../", "lib", "~", "x.whl", "a-1.0.tar.gz",
    "#egg=", "#subdirectory=", "&", "#sha256=" + "0" * 64, "?", "%2e%2e", "${TOKEN}", "${", "}",
    ":", "user:s3cr3t@", "[::1]", ":99999", "main", "-r ", "-c ", "-e ", "--editable=",
    "-r more.txt", "--index-url ", "--extra-index-url=", "-f ", "--find-links ", "--no-binary ",
    "--only-binary=", ":all:", ":none:", "--pre", "--no-index", "--trusted-host ", "--hash=sha256:",
    " --hash=sha256:" + "ab" * 32, "--require-hashes", "-", "--", "=", " ", "\t", "\\\n", "\n",
    "\r", "\0", "\x7f", "\ufeff", "\u2028", "é", "\U0001f600", "\ud800", "'", '"', "`", "$(", "#",
    "\\",
)


class Files(dict[str, str]):
    """Files in memory; every folder of some names is a package."""

    def read(self, path: str) -> str | None:
        if path.startswith(("/", "../../..")) or "\0" in path:
            raise SpecError("leaves the workspace", where=path)
        if path.endswith("lib/pyproject.toml"):
            return ""
        return self.get(path)


def text(chance: random.Random) -> str:
    pieces = chance.choices(_PIECES, k=chance.randrange(1, 9))
    if chance.random() < 0.2:
        at = chance.randrange(len(pieces))
        pieces[at] = "".join(chance.choices(pieces[at], k=chance.randrange(1, 9)))
    return "".join(pieces)


def check(content: str) -> bool:
    """Whether a file with that content is accepted. Raises AssertionError or a bug's error."""
    wanted = Requirements()
    refusal: SpecError | None
    try:
        wanted.add_file("requirements.txt", Files({"requirements.txt": content,
                                                   "more.txt": "alpha\n-r requirements.txt\n"}))
    except SpecError as error:
        refusal = error
    else:
        refusal = None
    if refusal is not None:
        assert refusal.what
        assert refusal.fix or "leaves" in refusal.what
        assert "://user:s3cr3t@" not in str(refusal), refusal
        return False
    for source in wanted.sources:
        assert Source.from_json(source.to_json()) == source
        assert "://" not in source.location or urlsplit(source.location).password in (
            None, "${TOKEN}"), source
    lines = wanted.options.to_lines()
    assert Options.from_lines(lines).to_lines() == lines
    return True


def run(runs: int, seed: int) -> int:
    """How many of so many random files are accepted."""
    chance = random.Random(seed)
    accepted = 0
    for number in range(runs):
        content = text(chance)
        try:
            accepted += check(content)
        except Exception:
            print(f"run {number} of seed {seed}: {content!r}", file=sys.stderr)
            raise
    return accepted


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    accepted = run(asked.runs, asked.seed)
    print(f"{asked.runs} files, {accepted} accepted, the others refused with a SpecError")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
