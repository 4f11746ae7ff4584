"""A tracking store that is down, refuses or talks nonsense is explained, without passwords."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.adapters.double import Answer, Double, Request
from tests.support.tls import make_ca, make_server
from toolchain.adapters.mlflow import Mlflow
from toolchain.digest import Digest
from toolchain.errors import ConfigError, TrackingError
from toolchain.trace import Trace

Serve = Callable[..., Double]
_SECRET = "hunter2"
_FINISHED = {"run": {"info": {"status": "FINISHED", "lifecycle_stage": "active"}}}


@pytest.fixture
def opened(tmp_path: Path, trace: Trace, monkeypatch: pytest.MonkeyPatch
           ) -> Callable[..., Mlflow]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    # Of a database that is down; else nearly two minutes, where its driver is installed.
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)
    return lambda uri, **environ: Mlflow(uri, tmp_path, trace, environ)


def _json(value: object) -> Answer:
    return Answer(headers={"Content-Type": "application/json"}, body=json.dumps(value).encode())


@pytest.mark.parametrize("uri", [
    "http://{nobody}", "http://me:hunter2@{nobody}",
    "http://me:hun@ter2@{nobody}", "postgresql://me:hunter2@{nobody}/db",
    "mysql+pymysql://me:hunter2@{nobody}/db", "nonsense://me:hunter2@host/path",
    "sqlite:///a-file/mlflow.db"])
def test_a_store_that_cannot_be_used_is_explained(
    opened: Callable[..., Mlflow], tmp_path: Path, nobody: str, uri: str
) -> None:
    (tmp_path / "a-file").write_text("")
    mlflow = opened(uri.format(nobody=nobody))
    with pytest.raises(TrackingError) as caught:
        mlflow.find(Digest.of(b"key"), "experiment")
    assert caught.value.where
    assert caught.value.fix
    assert "ter2" not in str(caught.value)


@pytest.mark.parametrize("uri", ["http://{nobody}", "http://me:hunter2@{nobody}"])
def test_a_server_that_is_down_is_noticed_without_loading_mlflow(
    opened: Callable[..., Mlflow], nobody: str, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)  # then it cannot be imported
    mlflow = opened(uri.format(nobody=nobody))
    asks: list[Callable[[], bool]] = [
        lambda: mlflow.is_finished("run"),
        lambda: mlflow.has_version("model", "1", "candidate")]
    for ask in asks:
        with pytest.raises(TrackingError, match="cannot be reached") as caught:
            ask()
        assert "MLFLOW_TRACKING_URI" in caught.value.fix
        assert _SECRET not in str(caught.value)


def test_a_database_that_is_not_there_has_no_runs(
    opened: Callable[..., Mlflow], tmp_path: Path
) -> None:
    mlflow = opened("sqlite:///mlflow.db")
    assert not mlflow.is_finished("run")
    assert not mlflow.has_version("model", "1", "candidate")
    assert not (tmp_path / "mlflow.db").exists()
    (tmp_path / "mlflow.db").write_bytes(b"")
    assert not mlflow.is_finished("run")


@pytest.mark.parametrize(("answer", "finished"), [
    (_json(_FINISHED), True), (Answer(status=404), False), (_json({}), False),
    (Answer(status=400, body=b'{"error_code": "INVALID_PARAMETER_VALUE"}'), False),
    (_json({"run": {"info": {"status": "FAILED", "lifecycle_stage": "active"}}}), False),
    (_json({"run": {"info": {"status": "FINISHED", "lifecycle_stage": "deleted"}}}), False),
])
def test_a_server_is_asked_about_a_run_in_one_request(
    opened: Callable[..., Mlflow], serve: Serve, answer: Answer, finished: bool
) -> None:
    double = serve(lambda _: answer)
    assert opened(f"{double.url}/").is_finished("a/b c") is finished
    assert [request.path for request in double.requests] == [
        "/api/2.0/mlflow/runs/get?run_id=a/b%20c"]


def test_a_server_is_asked_about_an_alias_in_one_request(
    opened: Callable[..., Mlflow], serve: Serve
) -> None:
    double = serve(lambda _: _json({"model_version": {"version": "3"}}))
    mlflow = opened(double.url)
    assert mlflow.has_version("my model", "3", "candidate")
    assert not mlflow.has_version("my model", "4", "candidate")
    assert double.requests[0].path == (
        "/api/2.0/mlflow/registered-models/alias?name=my%20model&alias=candidate")


@pytest.mark.parametrize(("status", "fix"), [
    (401, "MLFLOW_TRACKING_USERNAME"), (403, "MLFLOW_TRACKING_PASSWORD"), (500, "log")])
def test_a_refusal_is_explained(
    opened: Callable[..., Mlflow], serve: Serve, status: int, fix: str
) -> None:
    double = serve(lambda _: Answer(status=status))
    with pytest.raises(TrackingError, match=f"answered {status}") as caught:
        opened(double.url, MLFLOW_TRACKING_USERNAME="me",
               MLFLOW_TRACKING_PASSWORD=_SECRET).is_finished("run")
    assert caught.value.where == double.url
    assert fix in caught.value.fix
    assert _SECRET not in str(caught.value)


@pytest.mark.parametrize("answer", [
    Answer(body=b"<html>please log in"), Answer(body=b"\xff\xfe"), Answer(hang_up=True),
    Answer(body=b'{"run"', length=99, cut=True), _json([]), _json({"run": None}), _json("text")])
def test_what_is_no_answer_of_mlflow_is_explained(
    opened: Callable[..., Mlflow], serve: Serve, answer: Answer
) -> None:
    double = serve(lambda _: answer)
    with pytest.raises(TrackingError) as caught:
        opened(double.url).is_finished("run")
    assert caught.value.where == double.url
    assert caught.value.fix


@pytest.mark.parametrize(("environ", "user_info", "header"), [
    ({"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": _SECRET}, "",
     f"me:{_SECRET}"),
    ({"MLFLOW_TRACKING_TOKEN": "token"}, "", "Bearer token"),
    ({}, f"me:{_SECRET}@", f"me:{_SECRET}"),
    ({}, "me:hunter%402@", "me:hunter@2"),
    ({}, "", None),
])
def test_credentials_reach_the_server_as_mlflow_sends_them(
    opened: Callable[..., Mlflow], serve: Serve, environ: dict[str, str], user_info: str,
    header: str | None
) -> None:
    def answer(request: Request) -> Answer:
        return _json(_FINISHED)

    double = serve(answer)
    url = double.url.replace("://", f"://{user_info}")
    assert opened(url, **environ).is_finished("run")
    expected = header
    if header is not None and not header.startswith("Bearer"):
        expected = "Basic " + base64.b64encode(header.encode()).decode()
    assert double.requests[0].headers.get("authorization") == expected


@pytest.mark.parametrize(("host", "sent_on"), [("localhost", False), ("127.0.0.1", True)])
def test_a_redirect_takes_credentials_along_only_on_the_same_server(
    opened: Callable[..., Mlflow], serve: Serve, host: str, sent_on: bool
) -> None:
    def answer(request: Request) -> Answer:
        if request.path.startswith("/api/"):
            place = double.url.replace("127.0.0.1", host)
            return Answer(status=302, headers={"Location": f"{place}/moved"})
        return _json(_FINISHED)

    double = serve(answer)
    assert opened(double.url, MLFLOW_TRACKING_TOKEN=_SECRET).is_finished("run")
    first, second = (request.headers.get("authorization") for request in double.requests)
    assert first == f"Bearer {_SECRET}"
    assert second == (first if sent_on else None)


def test_mlflows_file_of_credentials_is_read_where_no_variable_says_otherwise(
    opened: Callable[..., Mlflow], serve: Serve, tmp_path: Path
) -> None:
    file = tmp_path / ".mlflow/credentials"
    file.parent.mkdir()
    file.write_text(f"[mlflow]\nmlflow_tracking_username = me\n"
                    f"mlflow_tracking_password = {_SECRET}\n")
    double = serve(lambda _: _json(_FINISHED))
    for environ in ({}, {"MLFLOW_TRACKING_PASSWORD": "other"}):
        assert opened(double.url, HOME=str(tmp_path), **environ).is_finished("run")
    sent = [base64.b64decode(request.headers.get("authorization", "").split()[1])
            for request in double.requests]
    assert sent == [f"me:{_SECRET}".encode(), b"me:other"]
    file.write_text(f"me {_SECRET}\n")
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        opened(double.url, HOME=str(tmp_path)).is_finished("run")
    assert caught.value.where == str(file)
    assert _SECRET not in str(caught.value)


def test_where_a_plug_in_signs_requests_mlflow_makes_them(
    opened: Callable[..., Mlflow], serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking.request_auth import registry

    class Signs:
        def get_name(self) -> str:
            return "signs"

        def get_auth(self) -> tuple[str, str]:
            return "me", _SECRET

    known = registry._request_auth_provider_registry
    monkeypatch.setattr(known, "_registry", [*known._registry, Signs()])
    monkeypatch.setenv("MLFLOW_TRACKING_AUTH", "signs")
    expected = "Basic " + base64.b64encode(f"me:{_SECRET}".encode()).decode()

    def answer(request: Request) -> Answer:
        is_signed = request.headers.get("authorization") == expected
        return _json(_FINISHED) if is_signed else Answer(status=401)

    mlflow = opened(serve(answer).url, MLFLOW_TRACKING_AUTH="signs")
    mlflow.check()  # that it wants a signature shows that it is there
    assert mlflow.is_finished("run")
    assert not opened(serve(lambda _: Answer(status=404)).url,
                      MLFLOW_TRACKING_AUTH="signs").is_finished("run")


def test_tls_is_as_mlflows_variables_say(opened: Callable[..., Mlflow], tmp_path: Path) -> None:
    ca = make_ca(tmp_path)
    made = make_server(tmp_path, ca)
    both = tmp_path / "client.pem"
    both.write_bytes(made.certificate.read_bytes() + made.key.read_bytes())
    double = Double(lambda _: _json(_FINISHED))
    double.speak_tls(made.certificate, made.key, clients=ca.certificate)
    client = {"MLFLOW_TRACKING_CLIENT_CERT_PATH": str(both)}
    server = {"MLFLOW_TRACKING_SERVER_CERT_PATH": str(ca.certificate)}
    with double:
        assert opened(double.url, **client, **server).is_finished("run")
        assert opened(double.url, **client, MLFLOW_TRACKING_INSECURE_TLS="true").is_finished("run")
        for lacking in (client, server):
            with pytest.raises(TrackingError, match="cannot be reached"):
                opened(double.url, **lacking).is_finished("run")


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_a_ca_is_trusted_where_mlflow_is_told_of_it(
    opened: Callable[..., Mlflow], tmp_path: Path, name: str
) -> None:
    ca = make_ca(tmp_path)
    made = make_server(tmp_path, ca)
    double = Double(lambda _: _json(_FINISHED))
    double.speak_tls(made.certificate, made.key)
    with double:
        assert opened(double.url, **{name: str(ca.certificate)}).is_finished("run")
        with pytest.raises(TrackingError, match="cannot be reached"):
            opened(double.url).is_finished("run")


def test_a_server_that_goes_away_is_given_up_soon_and_named_meanwhile(
    tmp_path: Path, trace: Trace, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")
    double = serve(lambda _: Answer(hang_up=True))
    mlflow = Mlflow(double.url, tmp_path, trace, {})
    with pytest.raises(TrackingError):
        mlflow.find(Digest.of(b"key"), "experiment")
    # MLflow's own way would be eight times, and more than four minutes.
    assert len(double.requests) == 5
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with pytest.raises(TrackingError):
        mlflow.find(Digest.of(b"key"), "experiment")
    assert len(double.requests) == 7


@pytest.mark.parametrize(("answer", "error"), [
    (_json({"experiments": []}), ""), (Answer(status=403), ""), (Answer(status=503), ""),
    (Answer(status=404), ""), (Answer(status=401), "answered 401"),
    (Answer(body=b"<html>please log in"), "not an MLflow server")])
def test_a_server_is_asked_once_whether_it_is_there(
    opened: Callable[..., Mlflow], serve: Serve, answer: Answer, error: str
) -> None:
    double = serve(lambda _: answer)
    mlflow = opened(double.url)
    for _ in range(2):
        if error:
            with pytest.raises(TrackingError, match=error):
                mlflow.check()
        else:
            mlflow.check()
    assert len(double.requests) == 1
