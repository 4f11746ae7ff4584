"""What the layer tests share: a pool, and a layer's tar read back."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.services import need
from toolchain.digest import Digest
from toolchain.layer import GZIP, Layer
from toolchain.store import Store

Member = tuple[tarfile.TarInfo, bytes]


def plain(blob: bytes, media_type: str) -> bytes:
    """A layer's tar, by other code than ours."""
    if media_type == GZIP:
        import gzip

        return gzip.decompress(blob)
    done = subprocess.run([need("zstd"), "--decompress", "--stdout"], input=blob,
                          capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


@pytest.fixture
def members(store: Store) -> Callable[[Layer], dict[str, Member]]:
    """Reads a layer back: path -> (header, data), in order; checks what its descriptor claims."""
    def read(layer: Layer) -> dict[str, Member]:
        blob = store.read(layer.digest)
        tar = plain(blob, layer.media_type)
        assert len(blob) == layer.size
        assert Digest.of(tar) == layer.diff_id
        found: dict[str, Member] = {}
        with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
            for info in archive:
                assert info.name not in found, f"{info.name} twice"
                data = archive.extractfile(info) if info.isreg() else None
                found[info.name] = info, data.read() if data else b""
        return found

    return read
