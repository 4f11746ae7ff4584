"""Blobs appear whole or not at all, and are believed only while they are what was verified."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from toolchain.digest import Digest
from toolchain.errors import StoreError
from toolchain.journal import Journal
from toolchain.store import Store

DATA = b"some bytes" * 1000


def files(store: Store) -> list[str]:
    folder = store.path(Digest.of(b"")).parent
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_what_is_put_can_be_read(store: Store) -> None:
    digest = store.put(DATA)
    assert digest == Digest.of(DATA)
    assert store.has(digest)
    assert store.read(digest) == DATA
    assert store.put(DATA) == digest
    assert files(store) == [digest.hex]


def test_a_missing_blob_is_an_error_with_a_remedy(store: Store) -> None:
    missing = Digest.of(b"never put")
    assert not store.has(missing)
    with pytest.raises(StoreError, match="missing or damaged") as caught:
        store.open(missing)
    assert caught.value.fix


def test_bytes_with_another_digest_are_refused(store: Store) -> None:
    with (pytest.raises(StoreError, match="does not match its digest"),
          store.writer(Digest.of(DATA)) as blob):
        blob.write(b"other")
    assert files(store) == []


def test_an_abandoned_writer_leaves_nothing(store: Store) -> None:
    def give_up() -> None:
        with store.writer() as blob:
            blob.write(DATA)
            raise KeyError

    with pytest.raises(KeyError):
        give_up()
    assert files(store) == []


@pytest.mark.parametrize("keep_time", [False, True])
def test_a_flipped_bit_is_noticed_and_the_blob_put_aside(
    store: Store, journal: Journal, tmp_path: Path, keep_time: bool
) -> None:
    digest = store.put(DATA)
    path = store.path(digest)
    before = path.stat()
    path.chmod(0o644)
    path.write_bytes(b"S" + DATA[1:])
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    for one in (store, Store(path.parent, tmp_path / "cache/quarantine", journal)):
        assert not one.has(digest)
    assert (tmp_path / "cache/quarantine" / digest.hex).exists()
    assert store.put(DATA) == digest
    assert store.has(digest)


def test_a_truncated_blob_is_noticed(store: Store) -> None:
    digest = store.put(DATA)
    os.truncate(_writable(store.path(digest)), 10)
    assert not store.has(digest)


def test_a_blob_whose_times_moved_is_hashed_and_kept(store: Store) -> None:
    digest = store.put(DATA)
    os.utime(store.path(digest))
    assert store.has(digest)


def test_a_link_shares_the_blob_and_does_not_unsettle_it(store: Store, tmp_path: Path) -> None:
    digest = store.put(DATA)
    target = tmp_path / "elsewhere" / "blob"
    store.link(digest, target)
    store.link(digest, target)
    assert list(target.parent.iterdir()) == [target]
    assert target.read_bytes() == DATA
    assert target.stat().st_ino == store.path(digest).stat().st_ino
    # Verified by its times alone: were it hashed, this would find it damaged.
    assert store.has(digest)


def test_many_threads_put_one_blob(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        digests = set(pool.map(lambda _: store.put(DATA), range(32)))
    assert digests == {Digest.of(DATA)}
    assert files(store) == [Digest.of(DATA).hex]


def test_many_threads_link_one_blob_to_one_place(store: Store, tmp_path: Path) -> None:
    digest = store.put(DATA)
    target = tmp_path / "elsewhere" / "blob"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: store.link(digest, target), range(200)))
    assert target.read_bytes() == DATA
    assert store.read(digest) == DATA
    assert list(target.parent.iterdir()) == [target]


def test_the_source_of_the_bytes_is_not_blamed_on_the_cache(store: Store) -> None:
    def break_off() -> None:
        with store.writer(Digest.of(DATA)) as blob:
            blob.write(DATA[:1])
            raise ConnectionResetError(104, "Connection reset by peer")

    with pytest.raises(ConnectionResetError):
        break_off()
    assert files(store) == []


def test_a_blob_without_a_record_is_hashed_before_it_is_believed(
    store: Store, tmp_path: Path
) -> None:
    """As after the journal was lost."""
    good, bad = store.put(DATA), store.put(b"other")
    os.truncate(_writable(store.path(bad)), 1)
    again = Store(store.path(good).parent, tmp_path / "cache/quarantine",
                  Journal(tmp_path / "another"))
    assert (again.has(good), again.has(bad)) == (True, False)


def test_a_folder_that_cannot_be_made_is_an_error_with_a_remedy(
    tmp_path: Path, journal: Journal
) -> None:
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "blobs", tmp_path / "quarantine", journal)
    with pytest.raises(StoreError, match="the cache cannot be used") as caught:
        store.put(DATA)
    assert "free some space" in caught.value.fix


def _writable(path: Path) -> Path:
    path.chmod(0o644)
    return path


def test_a_file_is_stored_as_its_bytes_are(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content" * 999_999)
    digest = store.put_file(path)
    assert digest == Digest.of(path.read_bytes())
    assert store.read(digest) == path.read_bytes()
    with pytest.raises(FileNotFoundError):
        store.put_file(tmp_path / "none")
