"""Downloads end in the store or in an explanation; passwords go to their host and nowhere else."""

from __future__ import annotations

import base64
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.adapters.double import Answer, Double, Request
from toolchain.adapters import fetch
from toolchain.adapters.address import Address
from toolchain.adapters.fetch import Fetcher
from toolchain.digest import Digest
from toolchain.errors import ResolveError
from toolchain.progress import Progress
from toolchain.store import Store

Serve = Callable[..., Double]
_DATA = b"the right bytes" * 1000
_DIGEST = Digest.of(_DATA)
_SECRET = "hunter2"


@pytest.fixture
def progress() -> Progress:
    return Progress()


@pytest.fixture
def fetcher(store: Store, progress: Progress) -> Fetcher:
    return Fetcher(store=store, progress=progress)


@pytest.fixture
def leftovers(tmp_path: Path) -> Callable[[], list[str]]:
    """What is in the store's folder besides the right blob."""
    folder = tmp_path / "cache/blobs/sha256"
    return lambda: [path.name for path in folder.glob("*") if path.name != _DIGEST.hex]


def test_what_was_fetched_is_in_the_store_and_not_fetched_again(
    serve: Serve, fetcher: Fetcher, store: Store, progress: Progress,
    leftovers: Callable[[], list[str]]
) -> None:
    double = serve(lambda _: Answer(body=_DATA))
    for _ in range(2):
        fetcher.fetch(f"{double.url}/file", _DIGEST, "thing 1.0")
    assert store.read(_DIGEST) == _DATA
    assert len(double.requests) == 1
    assert (progress.done, progress.expected) == (len(_DATA), len(_DATA))
    assert leftovers() == []


def test_a_file_of_this_machine_is_copied(
    fetcher: Fetcher, store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "a folder" / "größe #1%.whl"
    path.parent.mkdir()
    path.write_bytes(_DATA)
    fetcher.fetch(path.as_uri(), _DIGEST, "thing 1.0")
    assert store.read(_DIGEST) == _DATA
    assert fetcher.get(path.as_uri(), "thing") == _DATA


@pytest.mark.parametrize("trouble", [
    pytest.param(Answer(status=500), id="500"), pytest.param(Answer(status=429), id="429"),
    pytest.param(Answer(hang_up=True), id="hung up"),
    pytest.param(Answer(body=_DATA[:99], length=len(_DATA), cut=True), id="cut"),
    pytest.param(Answer(headers={"Transfer-Encoding": "chunked"}, body=b"5\r\nabcde\r\n",
                        cut=True), id="cut between chunks"),
])
def test_a_passing_trouble_is_overcome(
    serve: Serve, fetcher: Fetcher, store: Store, trouble: Answer,
    leftovers: Callable[[], list[str]]
) -> None:
    answers = iter([trouble])
    double = serve(lambda _: next(answers, Answer(body=_DATA)))
    fetcher.fetch(f"{double.url}/file", _DIGEST, "thing 1.0")
    assert store.read(_DIGEST) == _DATA
    assert len(double.requests) == 2
    assert leftovers() == []


@pytest.mark.parametrize("trouble", [Answer(status=503), Answer(hang_up=True)])
def test_a_small_file_too_is_asked_for_again(
    serve: Serve, fetcher: Fetcher, trouble: Answer
) -> None:
    answers = iter([trouble])
    double = serve(lambda _: next(answers, Answer(body=b"text")))
    assert fetcher.get(f"{double.url}/file", "text") == b"text"


def test_a_small_file_that_does_not_end_is_given_up(
    serve: Serve, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_LARGEST", 3)
    double = serve(lambda _: Answer(body=b"text"))
    with pytest.raises(ResolveError, match="text has more than 3 bytes"):
        fetcher.get(f"{double.url}/file", "text")


def test_what_nobody_has_pinned_yet_is_stored_whole_and_piece_by_piece(
    serve: Serve, fetcher: Fetcher, store: Store, progress: Progress
) -> None:
    data = bytes(48 << 20)
    answers = iter([Answer(body=data[:999], length=len(data), cut=True)])
    double = serve(lambda _: next(answers, Answer(body=data)))
    tracemalloc.start()
    try:
        digest = fetcher.fetch_any(f"{double.url}/file", "thing")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert digest == Digest.of(data)
    assert store.has(digest)
    assert (progress.done, progress.expected) == (len(data), len(data))
    assert most < len(data) / 2


def test_progress_counts_a_file_once_however_often_it_was_begun(
    serve: Serve, fetcher: Fetcher, progress: Progress
) -> None:
    answers = iter([Answer(body=_DATA[:999], length=len(_DATA), cut=True)])
    double = serve(lambda _: next(answers, Answer(body=_DATA)))
    fetcher.fetch(f"{double.url}/file", _DIGEST, "thing 1.0")
    assert (progress.done, progress.expected) == (len(_DATA), len(_DATA))


@pytest.mark.parametrize("body", [b"", b"other bytes", _DATA[:-1], _DATA + b"!"])
def test_other_bytes_than_pinned_are_refused_and_not_kept(
    serve: Serve, fetcher: Fetcher, store: Store, tmp_path: Path, body: bytes,
    leftovers: Callable[[], list[str]]
) -> None:
    double = serve(lambda _: Answer(body=body))
    path = tmp_path / "file"
    path.write_bytes(body)
    for url, where in ((f"{double.url}/file", f"{double.url}/file"), (path.as_uri(), str(path))):
        with pytest.raises(ResolveError, match=r"hash mismatch: thing 1\.0") as caught:
            fetcher.fetch(url, _DIGEST, "thing 1.0")
        assert caught.value.where == where
        assert str(_DIGEST) in caught.value.what
        assert str(Digest.of(body)) in caught.value.what
        assert "upgrade=1" in caught.value.fix
    assert not store.has(_DIGEST)
    assert not store.has(Digest.of(body))
    assert leftovers() == []
    assert len(double.requests) == 1  # the same bytes would come again


@pytest.mark.parametrize(("status", "fix"), [
    (401, "credentials"), (403, "read there"), (404, "upgrade=1"), (410, "later")])
def test_a_refusal_is_explained(serve: Serve, fetcher: Fetcher, status: int, fix: str) -> None:
    double = serve(lambda _: Answer(status=status, body=b"<html>"))
    for ask in (lambda url: fetcher.fetch(url, _DIGEST, "thing 1.0"),
                lambda url: fetcher.get(url, "thing 1.0")):
        with pytest.raises(ResolveError, match=rf"thing 1\.0 cannot .*{status}") as caught:
            ask(f"{double.url}/file")
        assert caught.value.where == f"GET {double.url}/file"
        assert fix in caught.value.fix
    assert len(double.requests) == 2


def test_a_missing_or_unreadable_file_is_explained(fetcher: Fetcher, tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        for ask in (lambda url: fetcher.fetch(url, _DIGEST, "thing 1.0"),
                    lambda url: fetcher.get(url, "thing 1.0")):
            with pytest.raises(ResolveError, match=r"thing 1\.0 cannot be read") as caught:
                ask(path.as_uri())
            assert str(path) in caught.value.where
            assert caught.value.fix


def test_a_server_that_is_not_there_is_explained(
    fetcher: Fetcher, nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    url = f"http://user:{_SECRET}@{nobody}/simple/thing.whl"
    for ask in (lambda: fetcher.fetch(url, _DIGEST, "thing 1.0"),
                lambda: fetcher.get(url, "thing 1.0")):
        with pytest.raises(ResolveError, match=r"thing 1\.0 cannot be fetched") as caught:
            ask()
        assert caught.value.where.startswith("GET http://127.0.0.1:")
        assert "network" in caught.value.fix
        assert _SECRET not in str(caught.value)


def test_what_is_no_address_is_explained(fetcher: Fetcher) -> None:
    for url in ("http://", "http://[::1", "gopher://host/file", "nonsense"):
        with pytest.raises(ResolveError, match="thing") as caught:
            fetcher.get(url, "thing")
        assert caught.value.fix


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _checking(request: Request) -> Answer:
    if request.headers.get("authorization") != _basic("me", _SECRET):
        return Answer(status=401)
    return Answer(body=_DATA)


def test_credentials_go_to_their_host(serve: Serve, store: Store) -> None:
    double = serve(_checking)
    fetcher = Fetcher(store=store, progress=Progress(),
                      credentials={"127.0.0.1": ("me", _SECRET)})
    fetcher.fetch(f"{double.url}/file", _DIGEST, "thing 1.0")
    assert store.has(_DIGEST)
    assert fetcher.get(f"{double.url}/file", "thing") == _DATA


def test_credentials_go_to_no_other_host(serve: Serve, store: Store) -> None:
    double = serve(_checking)
    fetcher = Fetcher(store=store, progress=Progress(),
                      credentials={"index.example": ("me", _SECRET)})
    with pytest.raises(ResolveError, match="401") as caught:
        fetcher.fetch(f"{double.url}/file", _DIGEST, "thing 1.0")
    assert "authorization" not in double.requests[0].headers
    assert _SECRET not in str(caught.value)


def test_a_redirect_to_another_host_takes_no_credentials_along(
    serve: Serve, store: Store
) -> None:
    storage = serve(lambda _: Answer(body=_DATA))
    elsewhere = storage.url.replace("127.0.0.1", "localhost")
    double = serve(lambda _: Answer(status=302, headers={"Location": f"{elsewhere}/file"}))
    fetcher = Fetcher(store=store, progress=Progress(),
                      credentials={"127.0.0.1": ("me", _SECRET)})
    fetcher.fetch(f"{double.url}/file", _DIGEST, "thing 1.0")
    assert "authorization" in double.requests[0].headers
    assert "authorization" not in storage.requests[0].headers


def test_netrc_is_honoured(
    serve: Serve, fetcher: Fetcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login me password {_SECRET}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert fetcher.get(f"{serve(_checking).url}/file", "thing") == _DATA


def test_no_message_holds_a_password(serve: Serve, fetcher: Fetcher) -> None:
    status = [200]
    double = serve(lambda _: Answer(status=status[0], body=b"wrong"))
    url = double.url.replace("http://", f"http://me:{_SECRET}@") + "/file"
    for code in (200, 401, 404):
        status[0] = code
        with pytest.raises(ResolveError) as caught:
            fetcher.fetch(url, _DIGEST, "thing 1.0")
        assert _SECRET not in str(caught.value)
        assert double.host in caught.value.where


@pytest.mark.parametrize("written", ["file?token=${TOKEN}", "${TOKEN}/file", "a-${TOKEN}?b=${B}"])
def test_a_value_is_in_the_request_and_in_no_message(
    serve: Serve, fetcher: Fetcher, nobody: str, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    status = [200]
    double = serve(lambda _: Answer(status=status[0], body=b"wrong"))
    environ = {"TOKEN": f"{_SECRET}/ü", "B": "x"}
    for code, url in ((200, double.url), (404, double.url), (503, double.url),
                      (0, f"http://{nobody}")):
        status[0] = code
        with pytest.raises(ResolveError) as caught:
            fetcher.fetch(Address.of(f"{url}/{written}", environ), _DIGEST, "thing 1.0")
        assert _SECRET not in str(caught.value)
        assert caught.value.where.endswith(f"{url}/{written}")
    assert all(f"{_SECRET}%2F%C3%BC" in request.path for request in double.requests)
    assert _SECRET not in repr(Address.of(f"{double.url}/{written}", environ))


def test_many_threads_fetch_at_once(serve: Serve, fetcher: Fetcher, store: Store) -> None:
    from concurrent.futures import ThreadPoolExecutor

    files = {f"/{number}": str(number).encode() * 5000 for number in range(24)}
    double = serve(lambda request: Answer(body=files[request.path]))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda path: fetcher.fetch(double.url + path, Digest.of(files[path]), path),
                      files))
    assert all(store.has(Digest.of(data)) for data in files.values())
