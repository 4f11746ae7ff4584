"""What is said of an image: annotations, bill of materials, provenance; where readers find it."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.support.monorepo import Monorepo, ran
from tests.support.registry import RegistryServer
from tests.support.services import need
from toolchain.digest import Digest

CYCLONEDX, IN_TOTO = "application/vnd.cyclonedx+json", "application/vnd.in-toto+json"
_PREFIX = "org.opencontainers.image."
_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path_factory.mktemp("registry")) as started:
        yield started


class Layout:
    """Reads an OCI layout's files as any tool would."""

    def __init__(self, repo: Monorepo) -> None:
        self._folder = repo.folder / "cache/registry/mlflow/trainer"

    def blob(self, digest: str) -> bytes:
        data = (self._folder / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes()
        assert str(Digest.of(data)) == digest
        return data

    def manifest(self, digest: str) -> Any:
        return json.loads(self.blob(digest))

    def tagged(self, tag: str) -> Any:
        index = json.loads((self._folder / "index.json").read_bytes())
        found = [item for item in index["manifests"]
                 if item["annotations"]["org.opencontainers.image.ref.name"] == tag]
        return self.manifest(found[0]["digest"]) if found else None


class Http:
    """Reads a registry by plain HTTP, without any code of ours."""

    def __init__(self, host: str, repository: str) -> None:
        self._root = f"http://{host}/v2/{repository}"

    def _get(self, path: str, accept: str) -> bytes | None:
        request = urllib.request.Request(f"{self._root}/{path}", headers={"Accept": accept})
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                data: bytes = response.read()
                return data
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise

    def blob(self, digest: str) -> bytes:
        data = self._get(f"blobs/{digest}", "*/*")
        assert data is not None
        return data

    def manifest(self, digest: str) -> Any:
        return json.loads(self._get(f"manifests/{digest}", _MANIFEST) or b"null")

    def tagged(self, tag: str) -> Any:
        return json.loads(self._get(f"manifests/{tag}", _INDEX) or b"null")


def attached(reader: Layout | Http, digest: str) -> dict[str, bytes]:
    """artifact type -> document of an image, found by the referrers tag, all links checked."""
    index = reader.tagged(digest.replace(":", "-"))
    if index is None:
        return {}
    assert index["mediaType"] == _INDEX
    found = {}
    for entry in index["manifests"]:
        manifest = reader.manifest(entry["digest"])
        assert manifest["artifactType"] == entry["artifactType"]
        assert manifest["subject"]["digest"] == digest
        assert reader.blob(manifest["config"]["digest"]) == b"{}"
        (layer,) = manifest["layers"]
        assert layer["mediaType"] == entry["artifactType"]
        data = reader.blob(layer["digest"])
        assert len(data) == layer["size"]
        assert entry["artifactType"] not in found
        found[entry["artifactType"]] = data
    return found


def git(repo: Monorepo, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(repo.folder), "-c", "user.name=x", "-c", "user.email=x@x.invalid",
         *arguments], check=True, capture_output=True, text=True,
        env={**repo.environment, "GIT_COMMITTER_DATE": "2026-01-02T03:04:05Z",
             "GIT_AUTHOR_DATE": "2026-01-02T03:04:05Z"}).stdout.strip()


def commit(repo: Monorepo) -> str:
    if not (repo.folder / ".git").exists():
        git(repo, "init", "--quiet")
        (repo.folder / ".gitignore").write_text("cache/\nmlruns/\nmlflow.db\n.doit*\n")
        git(repo, "remote", "add", "origin", "https://me:s3cret@code.invalid/team/models.git")
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "--allow-empty", "--message", "change")
    return git(repo, "rev-parse", "HEAD")


def document(repo: Monorepo, *arguments: str) -> str:
    """What `doit sbom` prints to standard output, and nothing else."""
    done = subprocess.run([sys.executable, "-m", "doit", "sbom", *arguments], cwd=repo.folder,
                          env=repo.environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def digest_of(repo: Monorepo, project: str = "one") -> str:
    return str(repo.receipt(project, "push")["digest"])


def check(reader: Layout | Http, repo: Monorepo, revision: str) -> None:
    found = attached(reader, digest_of(repo))
    assert sorted(found) == [CYCLONEDX, IN_TOTO]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(
        found[CYCLONEDX].decode()) is None
    sbom, statement = json.loads(found[CYCLONEDX]), json.loads(found[IN_TOTO])
    assert sbom["metadata"]["component"] == {
        "bom-ref": "image", "type": "container", "name": "one",
        "version": repo.receipt("one", "push")["tag"]}
    names = {item["name"] for item in sbom["components"]}
    pinned = repo.receipt("one", "resolve")
    assert names == {item["name"] for item in pinned["packages"]} | set(pinned["base"]["packages"])
    (subject,) = statement["subject"]
    assert f"{subject['name']}@sha256:{subject['digest']['sha256']}" == \
        repo.receipt("one", "push")["reference"]
    inputs = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert {"name": "source", "digest": {"gitCommit": revision},
            "uri": f"git+https://code.invalid/team/models.git@{revision}"} in inputs
    expected = Digest.of((repo.folder / "projects/one/requirements.lock").read_bytes()).hex
    assert {"name": "requirements.lock", "digest": {"sha256": expected}} in inputs
    (base,) = [item for item in inputs if item.get("name") == "base.lock"]
    assert base["annotations"] == {"suite": "bookworm"}
    assert {item["sha256"] for item in pinned["packages"]} <= {
        item["digest"].get("sha256") for item in inputs}
    annotations = reader.manifest(digest_of(repo))["annotations"]
    assert annotations == {
        f"{_PREFIX}title": "one", f"{_PREFIX}revision": revision,
        f"{_PREFIX}created": "2026-01-02T03:04:05Z",
        f"{_PREFIX}source": "https://code.invalid/team/models.git"}


def test_a_layout_holds_the_image_and_what_is_said_of_it(monorepo: Monorepo) -> None:
    monorepo.add("one", requirements="alpha\nbeta\n")
    monorepo.doit("resolve")
    revision = commit(monorepo)
    monorepo.doit("push")
    check(Layout(monorepo), monorepo, revision)
    folder = monorepo.folder / "cache/registry/mlflow/trainer"
    tags = [item["annotations"]["org.opencontainers.image.ref.name"]
            for item in json.loads((folder / "index.json").read_bytes())["manifests"]]
    receipt = monorepo.receipt("one", "push")  # the image came last, so it is never without them
    assert tags == [receipt["digest"].replace(":", "-"), receipt["tag"]]


def test_a_registry_without_the_referrers_api_has_it_under_the_fallback_tag(
    monorepo: Monorepo, another_monorepo: Callable[[str], Monorepo], server: RegistryServer
) -> None:
    monorepo.add("one", requirements="alpha\nbeta\n")
    to = [f"registry={server.host}", "repository=team/supply"]
    monorepo.doit("resolve")
    revision = commit(monorepo)
    monorepo.doit("push", *to)
    reader = Http(server.host, "team/supply")
    check(reader, monorepo, revision)
    tag = digest_of(monorepo).replace(":", "-")
    before = reader.tagged(tag)

    monorepo.doit("forget", "push:one", *to)
    assert "already at" in monorepo.doit("push", *to)
    clone = another_monorepo("clone")
    shutil.rmtree(clone.folder)
    shutil.copytree(monorepo.folder, clone.folder, ignore=shutil.ignore_patterns("cache", ".git"))
    assert "already at" in clone.doit("push", *to)
    assert digest_of(clone) == digest_of(monorepo)
    assert reader.tagged(tag) == before

    raw = subprocess.run([need("skopeo"), "inspect", "--raw", "--tls-verify=false",
                          f"docker://{server.host}/team/supply:{tag}"],
                         check=True, capture_output=True, timeout=60).stdout
    assert json.loads(raw) == before


def test_pushing_the_same_image_again_attaches_once(
    monorepo: Monorepo, server: RegistryServer
) -> None:
    monorepo.add("one")
    monorepo.doit("push")
    index = monorepo.folder / "cache/registry/mlflow/trainer/index.json"
    before, digest = index.read_bytes(), digest_of(monorepo)
    layer = monorepo.receipt("one", "layer")["layers"][0]["digest"].removeprefix("sha256:")
    (monorepo.folder / "cache/registry/mlflow/trainer/blobs/sha256" / layer).unlink()
    assert ran(monorepo.doit("push"), "one")["push"] == "made"
    assert digest_of(monorepo) == digest
    assert len(attached(Layout(monorepo), digest)) == 2
    order = [sorted(json.loads(data)["manifests"], key=str)
             for data in (before, index.read_bytes())]
    assert order[0] == order[1]


def test_nothing_is_attached_where_it_is_not_wanted(monorepo: Monorepo) -> None:
    monorepo.add("one")
    monorepo.doit("push", "image.attest=no")
    assert attached(Layout(monorepo), digest_of(monorepo)) == {}
    assert Layout(monorepo).manifest(digest_of(monorepo))["annotations"]


def test_a_commit_changes_no_image_and_no_training(
    monorepo: Monorepo, another_monorepo: Callable[[str], Monorepo]
) -> None:
    monorepo.add("one")
    monorepo.doit("train")
    first = monorepo.receipt("one", "push")
    run = monorepo.receipt("one", "train")["run_id"]
    commit(monorepo)
    assert set(ran(monorepo.doit("train"), "one").values()) == {"fresh"}

    # Another machine, with the commit and the same tracking store, but not the registry.
    clone = another_monorepo("clone")
    shutil.rmtree(clone.folder)
    shutil.copytree(monorepo.folder, clone.folder, ignore=shutil.ignore_patterns("cache"))
    assert f"reused run {run}" in clone.doit("train")
    second = clone.receipt("one", "push")
    assert (second["tag"], second["config"]) == (first["tag"], first["config"])
    assert second["digest"] != first["digest"]
    assert clone.receipt("one", "train") == monorepo.receipt("one", "train")


def test_two_machines_at_one_commit_make_the_same_bytes(
    monorepo: Monorepo, another_monorepo: Callable[[str], Monorepo]
) -> None:
    monorepo.add("one", requirements="alpha\nbeta\n")
    monorepo.doit("resolve")
    commit(monorepo)
    monorepo.doit("push")
    clone = another_monorepo("elsewhere/and/deeper")
    shutil.rmtree(clone.folder)
    shutil.copytree(monorepo.folder, clone.folder, ignore=shutil.ignore_patterns("cache"))
    clone.doit("push")
    assert digest_of(clone) == digest_of(monorepo)
    assert attached(Layout(clone), digest_of(clone)) == attached(
        Layout(monorepo), digest_of(monorepo))


def test_the_time_can_be_given(monorepo: Monorepo) -> None:
    monorepo.add("one")
    monorepo.environment["SOURCE_DATE_EPOCH"] = "soon"
    assert "SOURCE_DATE_EPOCH" in monorepo.doit("push", expect=1)
    monorepo.environment["SOURCE_DATE_EPOCH"] = "86400"
    monorepo.doit("push")
    manifest = Layout(monorepo).manifest(digest_of(monorepo))
    assert manifest["annotations"][f"{_PREFIX}created"] == "1970-01-02T00:00:00Z"


def test_sbom_prints_json_from_the_locks_alone(monorepo: Monorepo) -> None:
    monorepo.add("one", requirements="alpha\nbeta\n")
    monorepo.add("two")
    monorepo.doit("resolve")
    shutil.rmtree(monorepo.folder / "cache")
    text = document(monorepo, "project=one")
    assert text.count("\n") == 1
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert {"alpha", "beta", "gamma", "base-files"} <= {
        item["name"] for item in json.loads(text)["components"]}
    assert not list((monorepo.folder / "cache/blobs/sha256").glob("*"))
    assert document(monorepo, "project=one") == text
    lines = document(monorepo).splitlines()
    assert [json.loads(line)["metadata"]["component"]["name"] for line in lines] == ["one", "two"]
    assert json.loads(lines[0]) == json.loads(text)


def test_sbom_prints_what_is_attached(monorepo: Monorepo) -> None:
    monorepo.add("one", requirements="alpha\nbeta\n")
    monorepo.doit("push")
    found = attached(Layout(monorepo), digest_of(monorepo))
    assert document(monorepo, "project=one").encode() == found[CYCLONEDX] + b"\n"


def test_sbom_says_what_is_wrong_beside_the_document(monorepo: Monorepo) -> None:
    monorepo.add("one", mlproject="name: one\nentry_points: 5\n")
    done = subprocess.run([sys.executable, "-m", "doit", "sbom", "project=one"],
                          cwd=monorepo.folder, env=monorepo.environment, capture_output=True,
                          text=True, timeout=60)
    assert done.returncode != 0
    assert done.stdout == ""
    assert "fix:" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_secret_and_no_place_is_in_what_is_pushed(
    monorepo: Monorepo, wheels: Path
) -> None:
    """Neither passwords of indexes, of git's remote and of the environment, nor paths."""
    folder = monorepo.add("one", requirements="alpha\nbeta\n")
    monorepo.environment |= {"UV_EXTRA_INDEX_URL": "https://me:s3cret@index.invalid/simple",
                             "PIP_EXTRA_INDEX_URL": "https://me:s3cret@index.invalid/simple",
                             "MLFLOW_TRACKING_PASSWORD": "s3cret"}
    monorepo.doit("resolve")
    commit(monorepo)
    monorepo.doit("push")
    found = attached(Layout(monorepo), digest_of(monorepo))
    said = b"".join(found.values()) + json.dumps(
        Layout(monorepo).manifest(digest_of(monorepo))).encode()
    said += document(monorepo, "project=one").encode()
    for secret in ("s3cret", base64.b64encode(b"me:s3cret").decode(), "index.invalid",
                   str(folder.parents[1]), str(wheels), "file:"):
        assert secret.encode() not in said, secret
    assert not re.search(rb'"/(tmp|home|root|usr|srv)/', said)
