"""What a healthy cluster does not do on demand: 410, 429, watches that break, tokens that expire.

A double answers as an API server does; everything else is tried on a real one.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.loopback import Handler, Loopback
from tests.support.services import need_module
from toolchain.adapters.cluster import Cluster
from toolchain.adapters.cluster_log import PodLog
from toolchain.adapters.cluster_watch import Observed
from toolchain.adapters.log import Log
from toolchain.errors import EngineError

need_module("kubernetes")
_ITEM = dict[str, Any]


class Api:
    """An API server with Jobs, whose watches end as `script` says, one word for each.

    ok: events, then a proper end; cut: events, then the connection breaks; gone: a 410 as an
    event; http410, http429, http401: as a status.
    """

    def __init__(self, *script: str) -> None:
        self.script = list(script)
        self.asked: list[tuple[str, str]] = []  # (what, resourceVersion)
        self.version = 10
        self.jobs: list[_ITEM] = []
        self.events: list[_ITEM] = []  # that the next watch of Jobs sends
        self.tokens: set[str] = set()  # those that hold, if not all
        self.log = [b""]  # what each connection gets of the log
        self.lock = threading.Lock()

    def job(self, name: str) -> _ITEM:
        self.version += 1
        return {"metadata": {"name": name, "resourceVersion": str(self.version)}}

    def handler(self, *arguments: Any) -> Handler:
        api = self

        class One(Handler):
            def answer(self) -> None:
                api.answer(self)

        return One(*arguments)

    def answer(self, to: Handler) -> None:
        url = urlsplit(to.path)
        query = {name: value[0] for name, value in parse_qs(url.query).items()}
        token = (to.headers.get("Authorization") or "").removeprefix("Bearer ")
        with self.lock:
            if self.tokens and token not in self.tokens:
                self._said(to, 401, "Unauthorized")
            elif url.path.endswith("/log"):
                self._log(to)
            elif "watch" in query:
                self._watch(to, url.path, query["resourceVersion"])
            else:
                self._list(to, url.path)

    def _list(self, to: Handler, path: str) -> None:
        is_jobs = path.endswith("/jobs")
        if is_jobs:
            self.asked.append(("list", ""))
            if self.script and self.script[0] == "busy":
                self.script.pop(0)
                self._said(to, 429, "Too many requests", **{"Retry-After": "1"})
                return
        self._sent(to, 200, json.dumps({"metadata": {"resourceVersion": str(self.version)},
                                        "items": self.jobs if is_jobs else []}).encode())

    def _watch(self, to: Handler, path: str, version: str) -> None:
        if not path.endswith("/jobs"):
            self._sent(to, 200, b"", hold=0.3)
            return
        self.asked.append(("watch", version))
        word = self.script.pop(0) if self.script else "hold"
        if word.startswith("http"):
            self._said(to, int(word[4:]), "no")
            return
        events, self.events = self.events, []
        if word == "gone":
            events = [{"type": "ERROR", "object": {"kind": "Status", "code": 410,
                                                   "message": "too old"}}]
        data = b"".join(json.dumps(event).encode() + b"\n" for event in events)
        self._sent(to, 200, data, cut=word == "cut", hold=0.3 if word == "hold" else 0)

    def _log(self, to: Handler) -> None:
        self.asked.append(("log", ""))
        data = self.log.pop(0)
        self._sent(to, 200, data, cut=bool(self.log))

    def _said(self, to: Handler, status: int, message: str, **headers: str) -> None:
        self._sent(to, status, json.dumps({"kind": "Status", "message": message}).encode(),
                   headers=headers)

    def _sent(self, to: Handler, status: int, data: bytes, *, cut: bool = False, hold: float = 0,
              headers: dict[str, str] | None = None) -> None:
        to.send_response(status)
        to.send_header("Content-Type", "application/json")
        to.send_header("Transfer-Encoding", "chunked")
        for name, value in (headers or {}).items():
            to.send_header(name, value)
        to.end_headers()
        if data:
            to.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            to.wfile.flush()
        if hold:
            self.lock.release()
            time.sleep(hold)
            self.lock.acquire()
        if cut:
            to.close_connection = True
        else:
            to.wfile.write(b"0\r\n\r\n")


def cluster(url: str, folder: Path, token: str = "t") -> Cluster:
    (folder / "kubeconfig").write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]}))
    return Cluster("", {"KUBECONFIG": str(folder / "kubeconfig")}, patience=3)


def until(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.mark.parametrize(("word", "second"), [
    ("ok", "watch"), ("cut", "watch"), ("gone", "list"), ("http410", "list"),
    ("http429", "list")])
def test_a_watch_that_ends_goes_on(api: Api, tmp_path: Path, word: str, second: str) -> None:
    """From the version that was seen last; from a new list where the server has forgotten it."""
    api.script = [word]
    api.events = [{"type": "ADDED", "object": api.job("first")}]
    last = str(api.version)
    with Loopback(api.handler) as server, \
            Observed(cluster(server.url, tmp_path), "default") as observed:
        until(lambda: len(api.asked) > 2)
        asked = api.asked[:3]
        with api.lock:
            api.events = [{"type": "ADDED", "object": api.job("second")}]
        until(lambda: "second" in observed.jobs)
        assert asked[:2] == [("list", ""), ("watch", last)]
        assert asked[2][0] == second
        if second == "watch":
            assert asked[2][1] == last
            assert "first" in observed.jobs


def test_what_went_while_nobody_watched_is_seen_by_listing(api: Api, tmp_path: Path) -> None:
    api.jobs = [api.job("stays"), api.job("goes")]
    api.script = ["hold", "gone"]
    with Loopback(api.handler) as server, \
            Observed(cluster(server.url, tmp_path), "default") as observed:
        until(lambda: "goes" in observed.jobs)
        made = time.monotonic()
        with api.lock:
            del api.jobs[1]
        until(lambda: observed.is_deleted("goes", made))
        assert "stays" in observed.jobs
        assert not observed.is_deleted("stays", made)


def test_a_busy_server_is_asked_again_when_it_says(api: Api, tmp_path: Path) -> None:
    api.script, api.jobs = ["busy"], [api.job("one")]
    began = time.monotonic()
    with Loopback(api.handler) as server, \
            Observed(cluster(server.url, tmp_path), "default") as observed:
        until(lambda: "one" in observed.jobs)
    assert time.monotonic() - began >= 1


def test_an_expired_token_is_read_again(api: Api, tmp_path: Path) -> None:
    api.tokens, api.jobs = {"old"}, [api.job("one")]
    with Loopback(api.handler) as server:
        asked = cluster(server.url, tmp_path, "old")
        with Observed(asked, "default") as observed:
            until(lambda: "one" in observed.jobs)
            cluster(server.url, tmp_path, "new")  # as a login does
            with api.lock:
                api.tokens = {"new"}
                api.events = [{"type": "ADDED", "object": api.job("two")}]
            until(lambda: "two" in observed.jobs)


def test_a_token_that_stays_wrong_is_an_error_that_does_not_show_it(
    api: Api, tmp_path: Path
) -> None:
    api.tokens = {"good"}
    with Loopback(api.handler) as server, \
            Observed(cluster(server.url, tmp_path, "bad-token"), "default") as observed, \
            pytest.raises(EngineError, match="does not know these credentials") as caught:
        observed.wait("one", 0, 10)
    assert "bad-token" not in str(caught.value)


def test_a_log_that_breaks_off_is_shown_once(
    api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new connection begins at the beginning."""
    whole = "".join(f"line {number} é\n" for number in range(50)).encode()
    api.log = [whole[:100], whole[:333], whole[:333], whole]
    ended = {"metadata": {"name": "p"}, "status": {"phase": "Succeeded"}}
    with Loopback(api.handler) as server:
        log = PodLog(cluster(server.url, tmp_path), "default", "p", "one", Log("t"),
                     lambda: ended)
        log.start()
        assert log.ended.wait(20)
    assert capsys.readouterr().out == "".join(f"t | line {number} é\n" for number in range(50))


@pytest.mark.parametrize(("said", "shown"), [
    ("one\nrpc error: code = Unknown desc = Error: No such container: abc1", "one\n"),
    ("one\ntworpc error: code = NotFound desc = container \"abc1\": not found", "one\ntwo"),
    ("rpc error: code = Unavailable desc = mine", "rpc error: code = Unavailable desc = mine"),
    ("rpc error: code = Unknown desc = abc1\nend", "rpc error: code = Unknown desc = abc1\nend")])
def test_a_nodes_complaint_behind_a_log_is_not_shown(
    api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str], said: str, shown: str
) -> None:
    """It writes one if the container is removed while its log is followed."""
    api.log = [said.encode()]
    ended = {"metadata": {"name": "p"}, "status": {"phase": "Failed", "containerStatuses": [
        {"name": "one", "containerID": "docker://abc1", "state": {"terminated": {}}}]}}
    with Loopback(api.handler) as server:
        log = PodLog(cluster(server.url, tmp_path), "default", "p", "one", Log(), lambda: ended)
        log.start()
        assert log.ended.wait(20)
    assert capsys.readouterr().out == shown


def test_a_cluster_that_is_not_there_is_named(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(EngineError, match=r"the cluster does not answer: .*refused") as caught:
        cluster("http://127.0.0.1:1", tmp_path).ask(
            "list", lambda apis: apis.batch.list_namespaced_job("n", _preload_content=False))
    assert "http://127.0.0.1:1" in caught.value.where
    assert "kubectl cluster-info" in caught.value.fix
    assert time.monotonic() - began < 10


def test_what_is_no_api_server_is_an_error(tmp_path: Path) -> None:
    class Page(Handler):
        def answer(self) -> None:
            self.send_response(404)
            self.send_header("Content-Length", "13")
            self.end_headers()
            self.wfile.write(b"<html></html>")

    with Loopback(Page) as server, pytest.raises(EngineError, match="answered 404: <html>"):
        cluster(server.url, tmp_path).ask(
            "list", lambda apis: apis.batch.list_namespaced_job("n", _preload_content=False))


@pytest.mark.parametrize(("context", "text", "words"), [
    ("prod", None, "no context named 'prod' (did you mean 'prod-1'?)"),
    ("", "", "no cluster is known"), ("", "a: [", "no cluster is known"),
    ("", '{"contexts": [], "clusters": [], "users": []}', "no cluster is known")])
def test_a_kubeconfig_that_does_not_serve(tmp_path: Path, context: str, text: str | None,
                                          words: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "prod-1",
        "clusters": [{"name": "c", "cluster": {"server": "http://x"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "prod-1", "context": {"cluster": "c", "user": "u"}}]})
        if text is None else text)
    with pytest.raises(EngineError) as caught:
        Cluster(context, {"KUBECONFIG": str(path)}).apis()
    assert words in caught.value.what
    assert str(path) in caught.value.where
    assert "kubernetes.context" in caught.value.fix


def test_without_a_kubeconfig_and_outside_of_a_pod(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no cluster is known"):
        Cluster("", {"KUBECONFIG": str(tmp_path / "none")}).apis()
