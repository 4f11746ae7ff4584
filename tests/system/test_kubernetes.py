"""`doit train engine=kubernetes` as a user calls it: a real cluster, registry and MLflow server.

These need the network that `pip install` needs, for Debian's packages.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.adapters.test_kubernetes import Objects
from tests.support.registry import RegistryServer
from tests.support.services import cluster_config, mlflow_server
from tests.system.test_examples import Clone

pytestmark = pytest.mark.kubernetes
_MLPROJECT = """\
name: placed
python_env: python_env.yaml
entry_points:
  main:
    parameters:
      note: {type: string, default: none}
      seconds: {type: float, default: 0}
    command: python train.py {note} {seconds}
  fails:
    command: python -c 'raise SystemExit(7)'
  reads:
    parameters:
      rows: path
    command: cat {rows}
"""
# Logs a metric without mlflow, as its client does.
_TRAIN = '''\
import json, os, sys, time, urllib.request
print("begun", repr(sys.argv[1]), sys.prefix, flush=True)
time.sleep(float(sys.argv[2]))
data = {"run_id": os.environ["MLFLOW_RUN_ID"], "key": "m", "value": 0.5, "timestamp": 1}
request = urllib.request.Request(
    os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/runs/log-metric",
    json.dumps(data).encode(), {"Content-Type": "application/json"})
urllib.request.urlopen(request).read()
print("done", flush=True)
'''
# As in MLflow's documentation, with the node's network: the server is on its loopback.
_TEMPLATE = """\
apiVersion: batch/v1
kind: Job
metadata:
  name: "{replaced with MLflow Project name}"
spec:
  backoffLimit: 0
  template:
    spec:
      hostNetwork: true
      containers:
        - name: "{replaced with MLflow Project name}"
          image: "{replaced with URI of Docker image created during Project execution}"
          command: ["{replaced with MLflow Project entry point command}"]
          env: ["{appended with MLFLOW_TRACKING_URI, MLFLOW_RUN_ID and MLFLOW_EXPERIMENT_ID}"]
      restartPolicy: Never
"""


class Cloned(Clone):
    """With a project, and what MLflow's users have for Kubernetes."""

    def __init__(self, folder: Path, registry: str, server: str) -> None:
        super().__init__(folder)
        self.server = server
        project = self.folder / "projects/placed"
        project.mkdir()
        (project / "MLproject").write_text(_MLPROJECT)
        (project / "python_env.yaml").write_text('python: "3.11"\ndependencies: []\n')
        (project / "train.py").write_text(_TRAIN)
        (self.folder / "kube").mkdir()
        (self.folder / "kube/job.yaml").write_text(_TEMPLATE)
        (self.folder / "kube/backend.json").write_text(json.dumps({
            "repository-uri": f"{registry}/team/placed", "kube-job-template-path": "job.yaml"}))

    def call(self, *arguments: str, environ: dict[str, str] | None = None
             ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "doit", arguments[0], "project=placed", "engine=kubernetes",
             "kubernetes.config=kube/backend.json", *arguments[1:]],
            cwd=self.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, "NO_COLOR": "1", "CI": "1", "KUBECONFIG": cluster_config(),
                 "MLFLOW_TRACKING_URI": self.server, **(environ or {})})

    def said(self, *arguments: str, fails: bool = False, **environ: str) -> str:
        process = self.call(*arguments, environ=environ)
        output = process.communicate(timeout=600)[0]
        assert bool(process.returncode) == fails, output
        assert "Traceback" not in output
        return output

    def runs(self) -> list[Any]:
        def ask(path: str, body: Any) -> Any:
            request = urllib.request.Request(f"{self.server}/api/2.0/mlflow/{path}",
                                             json.dumps(body).encode(),
                                             {"Content-Type": "application/json"})
            return json.loads(urllib.request.urlopen(request).read())

        found = ask("experiments/search", {"max_results": 100})["experiments"]
        answer = ask("runs/search", {"experiment_ids": [item["experiment_id"] for item in found]})
        runs: list[Any] = answer.get("runs", [])
        return runs


@pytest.fixture(scope="module")
def objects() -> Objects:
    return Objects(cluster_config())


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloned]:
    cluster_config()
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "registry").mkdir()
    (folder / "server").mkdir()
    with RegistryServer(folder / "registry") as registry, \
            mlflow_server(folder / "server") as server:
        yield Cloned(folder / "clone", registry.host, server)


def test_a_dry_run_shows_the_manifest_and_submits_nothing(clone: Cloned, objects: Objects) -> None:
    output = clone.said("train", "dry_run=1", "params=note='a b'", AWS_SECRET_ACCESS_KEY="s3cr3t")
    head, _, text = output.partition("# training key: ")
    key, _, text = text.partition("\n")
    document, _, _ = text.partition("\nplaced: image")
    job = yaml.safe_load("\n".join(line for line in document.splitlines()
                                   if not line.startswith("#")))
    pushed = clone.receipt("placed", "push")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["image"] == pushed["reference"]
    assert f"# image: {pushed['reference']}" in head
    assert job["metadata"]["annotations"]["toolchain/key"] == key
    assert {"name": "TOOLCHAIN_PARAMETER_1", "value": "a b"} in container["env"]
    assert "AWS_SECRET_ACCESS_KEY" in output
    assert "s3cr3t" not in output
    assert clone.runs() == []
    assert objects.jobs() == []
    assert not (clone.folder / "cache/out/placed/train.json").exists()


def test_a_run_is_made_and_found_again(clone: Cloned, objects: Objects) -> None:
    output = clone.said("train", "params=note=\"it's $(id) $$ $(HOME)\"")
    assert 'begun "it\'s $(id) $$ $(HOME)" /opt/venv\ndone\n' in output
    run = clone.receipt("placed", "train")
    assert (run["status"], run["metrics"]) == ("FINISHED", {"m": 0.5})
    (found,) = clone.runs()
    tags = {item["key"]: item["value"] for item in found["data"]["tags"]}
    assert tags["mlflow.project.backend"] == "kubernetes"
    assert "train placed  up to date" in clone.said(
        "train", "params=note=\"it's $(id) $$ $(HOME)\"")
    assert objects.gone()


def test_a_failure_says_what_it_was(clone: Cloned, objects: Objects) -> None:
    output = clone.said("train", "entry_point=fails", fails=True)
    assert "entry point 'fails' exited with status 7" in output
    assert {run["info"]["status"] for run in clone.runs()} == {"FINISHED", "FAILED"}
    assert objects.gone()


def test_what_was_killed_goes_on_in_the_same_run(clone: Cloned, objects: Objects) -> None:
    before = len(clone.runs())
    process = clone.call("train", "params=note=killed seconds=8")
    assert process.stdout is not None
    while "begun 'killed'" not in process.stdout.readline():
        assert process.poll() is None
    process.kill()
    process.wait()
    output = clone.said("train", "params=note=killed seconds=8")
    assert "begun 'killed'" in output
    assert "done\n" in output
    assert len(clone.runs()) == before + 1
    assert clone.receipt("placed", "train")["metrics"] == {"m": 0.5}
    assert objects.gone()


def test_the_jobs_of_a_sweep_that_was_killed_go_on_in_the_same_runs(
    clone: Cloned, objects: Objects
) -> None:
    (clone.folder / "projects/placed/sweep.yaml").write_text(
        "method: grid\nmetric: {name: m}\nparallel: 2\nparameters:\n"
        "  note: {values: [swept-a, swept-b]}\n  seconds: {value: 12}\n")
    before = len(clone.runs())
    process = clone.call("sweep")
    assert process.stdout is not None
    begun = ""
    while not ("begun 'swept-a'" in begun and "begun 'swept-b'" in begun):
        line = process.stdout.readline()
        assert line, begun
        begun += line
    process.kill()
    process.wait()
    jobs = {job["metadata"]["name"] for job in objects.jobs()}
    output = clone.said("sweep")
    assert re.search(r"^placed +2 +2 +0 +0 ", output, re.MULTILINE), output
    assert len(jobs) == 2
    assert len(clone.runs()) == before + 3  # two trials and their parent
    swept = [run for run in clone.runs() if any(
        item["key"] == "mlflow.parentRunId" for item in run["data"]["tags"])]
    assert [run["info"]["status"] for run in swept] == ["FINISHED"] * 2
    assert objects.gone()


def test_ctrl_c_ends_the_job_and_marks_the_run(clone: Cloned, objects: Objects) -> None:
    process = clone.call("train", "params=note=stopped seconds=300")
    assert process.stdout is not None
    while "begun 'stopped'" not in process.stdout.readline():
        assert process.poll() is None
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(200) == 130
    assert time.monotonic() - began < 200
    assert "KILLED" in {run["info"]["status"] for run in clone.runs()}
    assert objects.gone()


@pytest.mark.parametrize(("arguments", "words"), [
    (("tracking_uri=sqlite:///mlflow.db",), "a pod cannot reach a tracking store that is a file"),
    (("kubernetes.config=", "registry="), "a cluster pulls images from a registry"),
    (("kubernetes.context=production",), "no context named 'production'"),
    (("kubernetes.template=kube/none.yaml",), "cannot be read: No such file"),
    (("kubernetes.config=kube/job.yaml",), "not valid JSON"),
    (("kubernetes.namespace=nowhere", "force=1"), "no such namespace"),
    (("entry_point=reads", "params=rows=/etc/passwd"), "a pod has no file of this machine"),
    (("kubernetes.template=kube/job.yaml", "kubernetes.config={}", "registry=127.0.0.1:9",
      "dry_run=1"), "127.0.0.1:9")])
def test_mistakes_are_explained(clone: Cloned, arguments: tuple[str, ...], words: str) -> None:
    before = len(clone.runs())
    output = clone.said("train", *arguments, fails=True)
    assert words in output
    assert "  fix: " in output
    assert len(clone.runs()) == before


def test_a_server_on_this_machines_loopback_is_refused_without_its_network(clone: Cloned) -> None:
    (clone.folder / "kube/pod.yaml").write_text(_TEMPLATE.replace("      hostNetwork: true\n", ""))
    before = len(clone.runs())
    output = clone.said("train", "kubernetes.template=kube/pod.yaml", "force=1", fails=True)
    assert len(clone.runs()) == before
    assert "which is this machine alone" in output
    assert "kubernetes.tracking_uri" in output


def test_of_two_clients_that_come_back_to_a_job_one_goes_on_with_it(
    clone: Cloned, objects: Objects, tmp_path: Path
) -> None:
    """They share the cluster and the tracking server, and no cache."""
    clone.said("push")
    other = copy.copy(clone)
    other.folder = Path(shutil.copytree(clone.folder, tmp_path / "other", symlinks=True))
    before, call = len(clone.runs()), ("train", "params=note=shared seconds=25")
    process = clone.call(*call)
    assert process.stdout is not None
    while "begun 'shared'" not in process.stdout.readline():
        assert process.poll() is None
    process.kill()
    process.wait()
    both = [clone.call(*call), other.call(*call)]
    said = [one.communicate(timeout=300)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert sum("is the same training; waiting for it" in text for text in said) == 1, said
    assert sum("begun 'shared'" in text for text in said) == 1, said
    assert len(clone.runs()) == before + 1
    assert objects.gone()
