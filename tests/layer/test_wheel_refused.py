"""A wheel that is damaged or would write outside is refused by name, whatever is wrong with it."""

from __future__ import annotations

import io
import signal
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.wheels import wheel
from toolchain.digest import Digest
from toolchain.errors import ResolveError
from toolchain.layer.archive import LayerWriter
from toolchain.layer.wheel import Wheel, write
from toolchain.store import Store

_NAME = "alpha-1.0-py3-none-any.whl"
_INFO = "alpha-1.0.dist-info"
Build = Callable[[bytes], None]
Entries = dict[str, bytes]
_FUZZ = settings(max_examples=150, deadline=None, derandomize=True, database=None,
                 suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def build(store: Store, pool: ThreadPoolExecutor) -> Build:
    """Puts a wheel of those bytes into a layer."""
    def run(data: bytes) -> None:
        with LayerWriter(store, "wheel", pool) as writer:
            write(Wheel(digest=Digest.of(data), filename=_NAME), io.BytesIO(data), "3.11", writer)

    return run


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    """A wheel that makes us loop for ever must fail its test, not hang it."""
    def ring(_number: int, _frame: object) -> None:
        raise TimeoutError("still busy")

    before = signal.signal(signal.SIGALRM, ring)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def _valid() -> Entries:
    """The entries of a wheel that is in order."""
    path = wheel(Path(_folder()), "alpha", scripts={"alpha-say": "alpha:main"}, files={
        "alpha.py": b"def main():\n    print('alpha')\n" * 40, "alpha-1.0.data/scripts/run":
        b"#!python\nprint()\n", "stored.bin": bytes(range(256))})
    with zipfile.ZipFile(path) as archive:
        return {item.filename: archive.read(item) for item in archive.infolist()}
