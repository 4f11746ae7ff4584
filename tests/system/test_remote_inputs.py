"""`path` parameters that are elsewhere: fetched once, by content, and in no record by address."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.files import Server
from tests.support.monorepo import Monorepo, ran
from toolchain.adapters.remote import RemoteInputs
from toolchain.errors import TrackingError

MLPROJECT = """\
name: one
entry_points:
  main:
    parameters: {data: path}
    command: cat {data} && python train.py
"""


@pytest.fixture
def server(web: Server) -> Server:
    (web.folder / "a.csv").write_text("first content\n")
    return web


def test_a_remote_input_is_part_of_the_key_by_content(monorepo: Monorepo, server: Server) -> None:
    monorepo.add("one", mlproject=MLPROJECT, files={"same.csv": "first content\n"})
    signed = f"params=data={server.url}/a.csv?signature=SECRET"
    output = monorepo.doit("train", signed)
    assert "first content" in output
    assert len(server.asked) == 1
    assert ran(monorepo.doit("train", signed), "one")["train"] == "fresh"
    assert len(server.asked) == 1, "a null call asks nobody"
    key = monorepo.receipt("one", "train")["key"]
    for other in (f"params=data={server.url}/a.csv", "params=data=same.csv",
                  f"params=data=file://{server.folder}/a.csv"):
        monorepo.doit("train", other)
        assert monorepo.receipt("one", "train")["key"] == key, "the same content, the same training"
    (server.folder / "a.csv").write_text("second content\n")
    assert "second content" in monorepo.doit("train", signed, "force=1")
    assert monorepo.receipt("one", "train")["key"] != key
    held = [path for path in (monorepo.folder / "cache").rglob("*")
            if path.is_file() and b"SECRET" in path.read_bytes()]
    assert held == []
    assert b"SECRET" not in monorepo.database.read_bytes()


def test_a_damaged_copy_is_fetched_anew(monorepo: Monorepo, server: Server) -> None:
    monorepo.add("one", mlproject=MLPROJECT)
    monorepo.doit("train", f"params=data={server.url}/a.csv")
    key = monorepo.receipt("one", "train")["key"]
    (copy,) = (monorepo.folder / "cache/inputs").rglob("a.csv")
    copy.write_text("damaged\n")
    assert ran(monorepo.doit("train", f"params=data={server.url}/a.csv"), "one")["train"] != "made"
    assert copy.read_text() == "first content\n"
    assert monorepo.receipt("one", "train")["key"] == key


def test_the_same_content_elsewhere_leaves_the_first_copy_to_its_readers(
    monorepo: Monorepo, server: Server
) -> None:
    monorepo.add("one", mlproject=MLPROJECT)
    (server.folder / "b.csv").write_text("first content\n")
    monorepo.doit("train", f"params=data={server.url}/a.csv")
    (copy,) = (monorepo.folder / "cache/inputs").rglob("a.csv")
    inode = copy.stat().st_ino
    monorepo.doit("train", f"params=data={server.url}/b.csv")
    assert copy.stat().st_ino == inode
    monorepo.doit("train", f"params=data={server.url}/a.csv", "upgrade=1")
    assert copy.stat().st_ino == inode


def test_an_input_that_cannot_be_had_is_a_mistake_without_its_query(
    monorepo: Monorepo, server: Server
) -> None:
    monorepo.add("one", mlproject=MLPROJECT)
    address = server.url.replace("://", "://user:SECRET@")
    output = monorepo.doit("train", f"params=data={address}/none.csv?key=SECRET", expect=1)
    assert "an input cannot be fetched: the server answers 404" in output
    assert f"at {server.url}/none.csv" in output
    assert "SECRET" not in output
    server.cut = 3
    output = monorepo.doit("train", f"params=data={server.url}/a.csv", expect=1)
    assert "cannot be fetched" in output
    output = monorepo.doit("train", "params=data=nosuch://b/k?key=SECRET", expect=1)
    assert "cannot be fetched" in output
    assert "SECRET" not in output
    assert "fix: " in output


def test_mlflow_fetches_what_it_knows(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(uri)
    experiment = client.create_experiment("data", f"file://{tmp_path}/artifacts")
    run_id = client.create_run(experiment).info.run_id
    client.log_text(run_id, "content\n", "folder/a.csv")
    (tmp_path / "to").mkdir()
    (tmp_path / "too").mkdir()
    remote = RemoteInputs(uri)
    got = remote.fetch(f"runs:/{run_id}/folder/a.csv", tmp_path / "to")
    assert (got.name, got.read_text()) == ("a.csv", "content\n")
    folder = remote.fetch(f"runs:/{run_id}/folder", tmp_path / "too")
    assert [path.name for path in folder.iterdir()] == ["a.csv"]
    with pytest.raises(TrackingError, match="cannot be fetched"):
        remote.fetch(f"runs:/{run_id}/nothing", tmp_path / "to")
