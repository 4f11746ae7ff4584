"""Projects that need a folder, a repository or another tool's lock, and projects out of git."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.adapters.test_sources import git, repository
from tests.support.debs import Mirror
from tests.support.files import Server
from tests.support.monorepo import TRAIN, Monorepo, default_wheels, ran
from tests.support.wheels import package_folder, wheel
from toolchain.digest import Digest


@pytest.fixture
def repo(tmp_path: Path, mirror: Mirror) -> Monorepo:
    default_wheels(tmp_path / "wheels")
    return Monorepo(tmp_path / "repo", mirror, tmp_path / "wheels")


def packages(repo: Monorepo, project: str) -> dict[str, str]:
    return {item["name"]: item["version"]
            for item in repo.receipt(project, "resolve")["packages"]}


def test_a_shared_library_of_the_workspace(repo: Monorepo) -> None:
    library = package_folder(repo.folder / "libs/shared", "shared", "1.5", requires=("gamma",))
    folder = repo.add("one", requirements="alpha\n-e ../../libs/shared\n")
    program = folder / "train.py"
    program.write_text(f"import shared\nprint('library', shared.VERSION)\n{TRAIN}")
    said = repo.doit("train", "project=one")
    assert "library 1.5" in said
    assert "editable" in said
    assert packages(repo, "one") == {"alpha": "1.1", "gamma": "1.0", "shared": "1.5"}
    text = (folder / "requirements.lock").read_text()
    assert text.splitlines()[2] == "# toolchain: folder shared==1.5 ../../libs/shared"
    assert set(ran(repo.doit("train", "project=one"), "one").values()) == {"fresh"}

    (library / "notes.md").write_text("no part of the wheel\n")
    found = ran(repo.doit("push", "project=one"), "one")
    assert found["base"] == found["push"] == "fresh"
    assert (folder / "requirements.lock").read_text() == text

    (library / "shared.py").write_text("VERSION = 'edited'\n")
    assert "library edited" in repo.doit("train", "project=one")
    assert (folder / "requirements.lock").read_text() == text  # its commit is that of the library
    package_folder(library, "shared", "1.5", requires=("delta",))
    repo.doit("push", "project=one")
    assert "delta==1.0" in (folder / "requirements.lock").read_text()

    # Another machine: no cache, the lock as it was committed.
    text = (folder / "requirements.lock").read_text()
    shutil.rmtree(repo.folder / "cache")
    assert "lock is current" in repo.doit("push", "project=one")
    assert (folder / "requirements.lock").read_text() == text


def test_a_change_is_seen_although_all_was_fresh(repo: Monorepo) -> None:
    library = package_folder(repo.folder / "libs/shared", "shared", "1.5")
    repo.add("one", requirements="../../libs/shared\n")
    repo.doit("push", "project=one")
    for path in (*library.rglob("*"), library, *(repo.folder / "projects").rglob("*")):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    import time

    time.sleep(2.2)
    for _ in range(2):
        assert set(ran(repo.doit("push", "project=one"), "one").values()) == {"fresh"}
    (library / "shared.py").write_text("VERSION = 'edited'\n")
    assert ran(repo.doit("push", "project=one"), "one")["base"] == "made"


def test_a_repository_is_pinned_to_a_commit(repo: Monorepo) -> None:
    upstream = package_folder(repo.folder.parent / "upstream", "shared", "2.0")
    commit = repository(upstream)
    folder = repo.add("one", requirements=f"shared @ git+file://{upstream}@main\n")
    program = folder / "train.py"
    program.write_text(f"import shared\nprint('library', shared.VERSION)\n{TRAIN}")
    assert "library 2.0" in repo.doit("train", "project=one")
    assert f"@{commit}#rev=main" in (folder / "requirements.lock").read_text()
    (upstream / "shared.py").write_text("VERSION = 'moved'\n")
    git(upstream, "commit", "-qam", "moved")
    shutil.rmtree(repo.folder / "cache")
    assert "library 2.0" in repo.doit("train", "project=one", "force=1")
    assert "library moved" in repo.doit("train", "project=one", "upgrade=1")


def test_find_links_of_the_project_itself(repo: Monorepo) -> None:
    folder = repo.add("one", requirements="--find-links ./own\nprivate\n")
    wheel(folder / "own", "private", "4.0")
    repo.doit("train", "project=one")
    assert packages(repo, "one") == {"private": "4.0"}
    text = (folder / "requirements.lock").read_text()
    assert "own" not in text
    shutil.rmtree(repo.folder / "cache")
    assert "lock is current" in repo.doit("train", "project=one", "force=1")


def uv_lock(wheels: Path, member: str) -> str:
    """A uv.lock of one member that needs alpha 1.0, and beta in the group dev."""
    def entry(name: str, version: str, more: str = "") -> str:
        digest = Digest.of((wheels / f"{name}-{version}-py3-none-any.whl").read_bytes())
        return (f'[[package]]\nname = "{name}"\nversion = "{version}"\n'
                'source = { registry = "https://usual.invalid/simple" }\n'
                f'{more}wheels = [{{ url = "https://host.invalid/{name}-{version}-py3-none-any.whl",'
                f' hash = "{digest}", size = 1 }}]\n')

    return ('version = 1\nrevision = 3\nrequires-python = ">=3.10"\n'
            + entry("alpha", "1.0") + entry("delta", "1.0")
            + entry("beta", "1.0", 'dependencies = [{ name = "gamma" }]\n')
            + entry("gamma", "1.0")
            + f'[[package]]\nname = "{member}"\nversion = "0.1.0"\n'
              'source = { virtual = "%s" }\n' % "."
            + 'dependencies = [{ name = "alpha" }, '
              '{ name = "delta", marker = "sys_platform == \'win32\'" }]\n'
              '[package.dev-dependencies]\ndev = [{ name = "beta" }]\n'
              'extra = [{ name = "gamma" }]\n')


def test_a_uv_lock_is_used_as_it_stands(repo: Monorepo) -> None:
    folder = repo.add("one", files={
        "pyproject.toml": '[project]\nname = "one"\nversion = "0.1.0"\ndependencies = ["alpha"]\n',
        "uv.lock": uv_lock(repo.wheels, "one")})
    repo.doit("train", "project=one")
    assert packages(repo, "one") == {"alpha": "1.0"}  # 1.1 is there, too
    assert "host.invalid" not in (folder / "requirements.lock").read_text()
    (folder / "uv.lock").write_text("# a comment\n" + (folder / "uv.lock").read_text())
    found = ran(repo.doit("push", "project=one"), "one")
    assert found["parse"] == "made"
    assert {found[stage] for stage in ("resolve", "base", "layer", "push")} == {"fresh"}
    with open(folder / "pyproject.toml", "a") as file:
        file.write('[tool.uv]\ndefault-groups = ["dev", "extra"]\n')
    repo.doit("push", "project=one")
    assert packages(repo, "one") == {"alpha": "1.0", "gamma": "1.0"}


def test_a_member_of_a_uv_workspace(repo: Monorepo) -> None:
    repo.add("one", files={
        "pyproject.toml": '[project]\nname = "one"\nversion = "0.1.0"\ndependencies = ["alpha"]\n'})
    (repo.folder / "projects/uv.lock").write_text(
        uv_lock(repo.wheels, "one").replace('virtual = "."', 'editable = "one"'))
    repo.doit("push", "project=one")
    assert packages(repo, "one") == {"alpha": "1.0"}


def test_a_pylock_is_used_as_it_stands(repo: Monorepo) -> None:
    def entry(name: str, version: str, more: str = "") -> str:
        path = repo.wheels / f"{name}-{version}-py3-none-any.whl"
        return (f'[[packages]]\nname = "{name}"\nversion = "{version}"\n{more}'
                f'wheels = [{{ name = "{path.name}", url = "{path.as_uri()}", hashes = '
                f'{{ sha256 = "{Digest.of(path.read_bytes()).hex}" }} }}]\n')

    repo.add("one", files={"pylock.toml": (
        'lock-version = "1.0"\ncreated-by = "x"\n' + entry("alpha", "1.0")
        + entry("beta", "1.0", "marker = \"'dev' in dependency_groups\"\n")
        + entry("delta", "1.0", "marker = \"sys_platform == 'win32'\"\n"))})
    repo.doit("train", "project=one")
    assert packages(repo, "one") == {"alpha": "1.0"}


def test_a_pyproject_without_a_lock(repo: Monorepo) -> None:
    package_folder(repo.folder / "libs/shared", "shared", "1.5")
    repo.add("one", files={"pyproject.toml": (
        '[project]\nname = "one"\ndependencies = ["alpha<1.1", "shared"]\n'
        '[tool.uv.sources]\nshared = { path = "../../libs/shared" }\n')})
    repo.doit("push", "project=one")
    assert packages(repo, "one") == {"alpha": "1.0", "shared": "1.5"}


def upstream_of(repo: Monorepo) -> Path:
    """A repository of somebody else's with a project in a folder of it."""
    folder = repo.add("guest")
    upstream = repo.folder.parent / "upstream"
    upstream.mkdir()
    shutil.move(folder, upstream / "deep")
    (upstream / "deep/pyproject.toml").write_text('[tool.toolchain]\nregistry = "evil.invalid"\n')
    return upstream


def test_a_project_out_of_git(repo: Monorepo) -> None:
    upstream = upstream_of(repo)
    commit = repository(upstream)
    url = f"project=file://{upstream}#deep"
    said = repo.doit("train", url, "version=main")
    assert f"guest: main of file://{upstream} is {commit} (upgrade=1 asks again)" in said
    assert "trained with 0.5" in said
    assert "to mlflow/trainer@sha256:" in said  # not where its own settings say
    (upstream / "deep/train.py").write_text(TRAIN.replace("trained", "moved"))
    git(upstream, "commit", "-qam", "two")
    upstream.rename(upstream.with_name("away"))
    assert set(ran(repo.doit("train", url, "version=main"), "guest").values()) == {"fresh"}
    upstream.with_name("away").rename(upstream)
    assert "moved with 0.5" in repo.doit("train", url, "version=main", "upgrade=1")
    # The first commit is still there, by its name.
    assert "train guest  reused" in repo.doit("train", url, f"version={commit}")


def test_a_script_of_a_repository_without_an_mlproject(repo: Monorepo) -> None:
    """As `mlflow run URL -e train.py`: what it needs, the files beside it say."""
    upstream = upstream_of(repo)
    (upstream / "deep/MLproject").unlink()
    (upstream / "deep/train.py").rename(upstream / "train.py")
    (upstream / "requirements.txt").write_text("alpha\n")
    commit = repository(upstream)
    url = f"project=file://{upstream}"
    said = repo.doit("train", url, "entry_point=trian.py", expect=3)
    assert "no MLproject there" in said
    assert "in entry_point=train.py" in said
    repo.doit("push", f"{url}#deep", "entry_point=../train.py", expect=3)
    repo.doit("push", url, expect=3)
    said = repo.doit("train", url, "entry_point=train.py", "params=rate=0.75")
    assert f"upstream: HEAD of file://{upstream} is {commit}" in said
    assert "trained with --rate 0.75" in said
    assert packages(repo, "upstream") == {"alpha": "1.1"}
    assert set(ran(repo.doit("train", url, "entry_point=train.py", "params=rate=0.75"),
                   "upstream").values()) == {"fresh"}


def test_a_guest_reads_nothing_of_the_workspace(repo: Monorepo) -> None:
    upstream = upstream_of(repo)
    (upstream / "deep/requirements.txt").write_text("-r ../../../../../secret.txt\n")
    (repo.folder / "secret.txt").write_text("alpha\n")
    repository(upstream)
    url = f"project=file://{upstream}#deep"
    assert "leaves the workspace" in repo.doit("train", url, expect=1)
    # Nor by a path that its own MLproject gives; who calls may give it.
    secret = repo.folder / "secret.txt"
    (upstream / "deep/requirements.txt").write_text("")
    (upstream / "deep/MLproject").write_text(
        "name: guest\nentry_points:\n  main:\n    parameters:\n"
        f"      rows: {{type: path, default: {secret}}}\n    command: cat {{rows}}\n")
    git(upstream, "commit", "-qam", "two")
    said = repo.doit("train", url, "upgrade=1", expect=1)
    assert f"parameter 'rows' names a path outside the repository: {secret}" in said
    assert "\nalpha\n" in repo.doit("train", url, f"params=rows={secret}")


@pytest.mark.parametrize(("words", "what"), [
    (("project=https://me:s3cr3t@host.invalid/a",), "a user or password is written into the URL"),
    (("project=ftp://host.invalid/a",), "repositories by ftp:// are not followed"),
    (("project=file:///nothing/here",), "git failed"),
    (("project=one", "version=main"), "version= says which commit"),
])
def test_a_mistake_is_said_in_words(repo: Monorepo, words: tuple[str, ...], what: str) -> None:
    repo.add("one")
    said = repo.doit("push", *words, expect=3)
    assert what in said
    assert "s3cr3t" not in said


def test_receipts_tell_where_a_package_is_from(repo: Monorepo) -> None:
    package_folder(repo.folder / "libs/shared", "shared", "1.5")
    repo.add("one", requirements="../../libs/shared\n")
    repo.doit("push", "project=one")
    (package,) = repo.receipt("one", "resolve")["packages"]
    assert package["source"] == "../../libs/shared"
    assert json.loads(repo.doit("sbom", "project=one").splitlines()[-1])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """An index of packages behind a password: what is below `files`, listed below `simple`."""
    files = tmp_path / "served/files"
    for name in ("theta", "iota"):
        path = wheel(files, name, "2.0")
        page = tmp_path / f"served/simple/{name}/index.html"
        page.parent.mkdir(parents=True)
        page.write_text(f'<!DOCTYPE html><a href="../../files/{path.name}#sha256='
                        f'{Digest.of(path.read_bytes()).hex}">{path.name}</a>')
    with Server(tmp_path / "served") as running:
        running.login = "me:s3cr3t p@ss"
        yield running


def _held(repo: Monorepo, *secrets: bytes) -> list[Path]:
    return [path for path in repo.folder.rglob("*") if path.is_file()
            and any(secret in path.read_bytes() for secret in secrets)]


def test_a_file_of_the_web_is_pinned_by_its_hash(repo: Monorepo, server: Server) -> None:
    host = server.url.removeprefix("http://")
    place = "files/theta-2.0-py3-none-any.whl"
    folder = repo.add("one", requirements=(
        f"alpha\ntheta @ http://${{WEB_USER}}:${{WEB_PASSWORD}}@{host}/{place}\n"))
    output = repo.doit("push", "project=one", expect=1)
    assert "the variable WEB_USER is not set" in output
    assert "fix: " in output
    repo.environment |= {"WEB_USER": "me", "WEB_PASSWORD": "wrong"}
    output = repo.doit("push", "project=one", expect=1)
    assert "401" in output
    assert "wrong" not in output
    repo.environment["WEB_PASSWORD"] = "s3cr3t p@ss"
    repo.doit("push", "project=one")
    assert packages(repo, "one")["theta"] == "2.0"
    digest = Digest.of((server.folder / place).read_bytes()).hex
    text = (folder / "requirements.lock").read_text()
    assert digest in text
    assert "s3cr3t" not in text
    number = len(server.asked)
    assert set(ran(repo.doit("push", "project=one"), "one").values()) == {"fresh"}
    assert len(server.asked) == number, "a null call asks nobody"
    assert _held(repo, b"s3cr3t", b"s3cr3t%20p%40ss") == []

    # Another machine, where the file is another one now: the lock's hash decides.
    shutil.rmtree(repo.folder / "cache")
    repo.doit("push", "project=one")
    wheel(server.folder / "files", "theta", "2.0", files={"theta.py": b"VERSION = 'evil'\n"})
    shutil.rmtree(repo.folder / "cache")
    output = repo.doit("push", "project=one", expect=1)
    assert "theta" in output
    assert "fix: " in output


def test_an_index_with_a_password_out_of_the_environment(repo: Monorepo, server: Server) -> None:
    host = server.url.removeprefix("http://")
    folder = repo.add("one", requirements=(
        f"--index-url http://${{WEB_USER}}:${{WEB_PASSWORD}}@{host}/simple\niota\n"))
    output = repo.doit("resolve", "project=one", expect=1)
    assert "the variable WEB_USER is not set" in output
    assert "fix: " in output
    repo.environment |= {"WEB_USER": "me", "WEB_PASSWORD": "s3cr3t p@ss"}
    for name in ("UV_NO_INDEX", "UV_OFFLINE"):
        del repo.environment[name]
    repo.doit("push", "project=one")
    assert packages(repo, "one") == {"iota": "2.0"}
    text = (folder / "requirements.lock").read_text()
    assert host not in text
    assert "s3cr3t" not in text
    assert _held(repo, b"s3cr3t") == []
    # Another machine fetches what the lock pins, with the same password.
    shutil.rmtree(repo.folder / "cache")
    output = repo.doit("push", "project=one")
    assert "lock is current" in output
    repo.environment["WEB_PASSWORD"] = "wr0ng"
    shutil.rmtree(repo.folder / "cache")
    output = repo.doit("push", "project=one", expect=1)
    assert "wr0ng" not in output
    assert "fix: " in output
