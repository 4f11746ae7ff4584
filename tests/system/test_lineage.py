"""From a model version back to the run, the image, the lock and the commit that it is from."""

from __future__ import annotations

import sqlite3
import subprocess

from tests.support.monorepo import Monorepo, ran


def _git(repo: Monorepo, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(repo.folder), "-c", "user.name=n", "-c", "user.email=e@example.invalid",
         *arguments], check=True, capture_output=True, text=True).stdout.strip()


def _tags(repo: Monorepo, query: str, *values: str) -> dict[str, str]:
    connection = sqlite3.connect(repo.database)
    try:
        return dict(connection.execute(f"select key, value from {query}", values).fetchall())
    finally:
        connection.close()


def test_a_run_and_its_model_version_say_what_they_were_made_from(monorepo: Monorepo) -> None:
    monorepo.add("one")
    (monorepo.folder / ".gitignore").write_text("cache\nmlflow.db\nmlruns\n")
    _git(monorepo, "init", "-q")
    monorepo.doit("resolve")
    _git(monorepo, "add", ".")
    _git(monorepo, "commit", "-qm", "first")
    first = _git(monorepo, "rev-parse", "HEAD")
    monorepo.doit("train", "params=rate=0.25")
    run, pushed = monorepo.receipt("one", "train"), monorepo.receipt("one", "push")
    lock = monorepo.receipt("one", "resolve")
    tags = _tags(monorepo, "tags where run_uuid=?", run["run_id"])
    assert tags["toolchain.key"] == run["key"]
    assert tags["toolchain.image"] == pushed["reference"]
    assert tags["toolchain.lock"].startswith("sha256:")
    assert tags["mlflow.project.entryPoint"] == "main"
    assert tags["mlflow.project.env"] == "python_env"
    assert tags["mlflow.project.backend"] == "local"
    assert tags["mlflow.source.git.commit"] == first
    assert [package["name"] for package in lock["packages"]] == ["alpha"]

    # The same image under another name, at another commit: the run that there is stands for it.
    _git(monorepo, "commit", "-q", "--allow-empty", "-m", "second")
    output = monorepo.doit("register", "params=rate=0.25", "repository=moved/there")
    assert f"reused run {run['run_id']}" in output or ran(output, "one")["train"] == "fresh"
    assert monorepo.receipt("one", "push")["reference"].startswith("moved/there@")
    version = _tags(monorepo, "model_version_tags where name='one' and version='1'")
    assert version == {
        "toolchain.run": run["run_id"], "toolchain.image": tags["toolchain.image"],
        "toolchain.lock": tags["toolchain.lock"], "mlflow.source.git.commit": first}
