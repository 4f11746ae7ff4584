"""Seeds -> endless texts that are nearly right, and the loop that tries them.

The same seed number makes the same texts, so that a failure can be had again by
`--seed N --first RUN --runs 1`.
"""

from __future__ import annotations

import argparse
import faulthandler
import random
import sys
import time
from collections.abc import Callable, Sequence

from toolchain.errors import ToolchainError

_MOST = 4000  # characters of a text
_LONGEST = 120  # seconds for a thousand runs


class Mutator:
    """Makes a text of one seed, or of two, with a few changes. `words` are worth inserting."""

    def __init__(self, seeds: Sequence[str], words: Sequence[str]) -> None:
        self._seeds = seeds
        self._words = words

    def make(self, chance: random.Random) -> str:
        text = chance.choice(self._seeds)
        for _ in range(chance.choice((0, 1, 1, 2, 3, 5, 9))):
            text = self._changed(text, chance)
        return text[:_MOST]

    def _changed(self, text: str, chance: random.Random) -> str:
        start = chance.randrange(len(text) + 1)
        stop = min(len(text), start + chance.choice((0, 1, 1, 2, 4, 8, 40)))
        how = chance.randrange(6)
        if how == 0:
            return text[:start] + text[stop:]
        if how == 1:
            return text[:start] + chance.choice(self._words) + text[start:]
        if how == 2:
            return text[:start] + chance.choice(self._words) + text[stop:]
        if how == 3:
            return text[:start] + text[start:stop] * chance.choice((2, 3, 20)) + text[stop:]
        if how == 4:
            letter = chr(chance.choice((chance.randrange(128), chance.randrange(0x500),
                                        chance.randrange(0x110000))))
            return text[:start] + letter + text[stop:]
        other = chance.choice(self._seeds)
        return text[:start] + other[chance.randrange(len(other) + 1):]


def run(attempt: Callable[[random.Random], None], *, seed: int, first: int, runs: int,
        every: int = 0) -> int:
    """Try `runs` inputs. Raises what is no ToolchainError, with the run's number noted; returns
    how many inputs were accepted."""
    accepted, started = 0, time.monotonic()
    for number in range(first, first + runs):
        if every and number % 1000 == 0:  # what hangs is a bug too
            faulthandler.dump_traceback_later(_LONGEST, exit=True)
        try:
            attempt(random.Random(f"{seed} {number}"))
            accepted += 1
        except ToolchainError as error:
            if not (error.what and error.where and error.fix) or "\n" in error.where:
                raise AssertionError(
                    f"seed {seed}, run {number}: {error!r} lacks a part") from error
        except BaseException:
            print(f"seed {seed}, run {number}", file=sys.stderr)
            raise
        if every and (number + 1 - first) % every == 0:
            print(f"{number + 1 - first} runs, {accepted} accepted, "
                  f"{time.monotonic() - started:.0f} s", flush=True)
    return accepted


def main(attempt: Callable[[random.Random], None]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--runs", type=int, default=100_000)
    asked = parser.parse_args()
    run(attempt, seed=asked.seed, first=asked.first, runs=asked.runs, every=min(50_000, asked.runs))
