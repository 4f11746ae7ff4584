"""What git says of a folder, asked of real repositories."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from toolchain.adapters import git
from toolchain.attest import Source
from toolchain.errors import ConfigError
from toolchain.image import CREATED

_FILES = ("MLproject", "train.py", "data/one.csv")


class Repository:
    """A git repository; every commit is a day later than the one before."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._days = 0
        folder.mkdir()
        self("init", "--quiet", "--initial-branch=main")
        self("config", "user.name", "Someone")
        self("config", "user.email", "someone@example.invalid")

    def __call__(self, *arguments: str) -> str:
        date = f"{1_700_000_000 + 86_400 * self._days} +0300"
        return subprocess.run(
            ["git", "-C", str(self.folder), *arguments], check=True, capture_output=True,
            text=True, env={**os.environ, "GIT_COMMITTER_DATE": date, "GIT_AUTHOR_DATE": date},
        ).stdout.strip()

    def commit(self, **files: str) -> str:
        """Write files (`_` for `/`, no extension) and commit everything; the commit."""
        self._days += 1
        for name, text in files.items():
            path = self.folder / name.replace("_", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self("add", "--all")
        self("commit", "--quiet", "--message", "change")
        return self("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    return Repository(tmp_path / "repository")


def test_the_revision_is_the_last_commit_that_touched_the_folder(repository: Repository) -> None:
    first = repository.commit(one_MLproject="name: one\n", two_MLproject="name: two\n")
    second = repository.commit(two_MLproject="name: 2\n")
    one = git.source(repository.folder / "one", _FILES, "")
    two = git.source(repository.folder / "two", _FILES, "")
    assert (one.revision, two.revision) == (first, second)
    assert one == Source(revision=first, created="2023-11-15T22:13:20Z")
    assert git.source(repository.folder, _FILES, "").revision == second


def test_the_time_that_was_given_is_the_time(repository: Repository) -> None:
    commit = repository.commit(one_MLproject="name: one\n")
    found = git.source(repository.folder / "one", _FILES, "1767323045")
    assert found == Source(revision=commit, created="2026-01-02T03:04:05Z")
    (repository.folder / "one/train.py").write_text("new")
    found = git.source(repository.folder / "one", _FILES, "1767323045")
    assert found == Source(created="2026-01-02T03:04:05Z")


@pytest.mark.parametrize("given", ["yesterday", "-1", "1.5", "9" * 12, "9" * 99, "١"])
def test_a_time_that_is_none_is_refused(given: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        git.source(tmp_path, _FILES, given)
    assert caught.value.where == "SOURCE_DATE_EPOCH"
    assert caught.value.fix


def test_a_folder_that_is_not_as_committed_has_no_revision(repository: Repository) -> None:
    commit = repository.commit(one_MLproject="name: one\n", two_MLproject="name: two\n")
    folder = repository.folder / "one"

    def dirty() -> bool:
        found = git.source(folder, _FILES, "")
        assert found.revision in ("", commit)
        assert (found.created == CREATED) == (not found.revision)
        return not found.revision

    assert not dirty()
    (repository.folder / "two/MLproject").write_text("another project's change\n")
    assert not dirty()
    (folder / "MLproject").write_text("changed")
    assert dirty()
    repository("add", "--all")
    assert dirty()
    repository("reset", "--quiet", "--hard")
    (folder / "train.py").write_text("new")
    assert dirty()
    (folder / "train.py").unlink()
    (folder / "MLproject").unlink()
    assert dirty()


def test_an_ignored_file_counts_where_it_is_in_the_image(repository: Repository) -> None:
    (repository.folder / ".gitignore").parent.mkdir(exist_ok=True)
    (repository.folder / ".gitignore").write_text("*.pyc\nscratch/\ndata/\n")
    commit = repository.commit(one_MLproject="name: one\n")
    folder = repository.folder / "one"
    (folder / "train.pyc").write_text("")
    (folder / "scratch").mkdir()
    (folder / "scratch/notes").write_text("")
    assert git.source(folder, _FILES, "").revision == commit
    (folder / "data").mkdir()
    (folder / "data/one.csv").write_text("1\n")
    assert git.source(folder, _FILES, "").revision == ""


def test_names_that_git_would_quote_are_read(repository: Repository) -> None:
    (repository.folder / ".gitignore").write_text("*.csv\n")
    repository.commit(one_MLproject="name: one\n")
    (repository.folder / "one/grün und\nrot.csv").write_text("1\n")
    assert git.source(repository.folder / "one", (), "").revision
    assert not git.source(repository.folder / "one", ("grün und\nrot.csv",), "").revision


def test_outside_version_control_nothing_is_known(tmp_path: Path, repository: Repository) -> None:
    assert git.source(tmp_path, _FILES, "") == Source()
    assert git.source(repository.folder, _FILES, "") == Source()  # no commit yet
    (tmp_path / "empty").mkdir()
    assert Source().created == CREATED == "1980-01-02T00:00:00Z"


def test_without_git_nothing_is_known(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.commit(one_MLproject="name: one\n")
    monkeypatch.setenv("PATH", str(repository.folder))
    assert git.source(repository.folder / "one", _FILES, "") == Source()


@pytest.mark.parametrize(("remote", "shown"), [
    ("https://code.invalid/team/models.git", "https://code.invalid/team/models.git"),
    ("https://user:s3cret@code.invalid/team/models.git", "https://code.invalid/team/models.git"),
    ("https://code.invalid:8443/m?private_token=s3cret#s3cret", "https://code.invalid:8443/m"),
    ("ssh://git@code.invalid:2222/team/models.git", "ssh://code.invalid:2222/team/models.git"),
    ("git@code.invalid:team/models.git", "ssh://code.invalid/team/models.git"),
    ("/srv/s3cret/models.git", ""), ("../s3cret", ""), ("file:///srv/s3cret", ""),
    ("https://[s3cret", ""),
])
def test_a_remote_is_shown_as_others_may_use_it(
    repository: Repository, remote: str, shown: str
) -> None:
    repository.commit(one_MLproject="name: one\n")
    repository("remote", "add", "origin", remote)
    assert git.source(repository.folder / "one", _FILES, "").repository == shown


def test_looking_writes_nothing(repository: Repository) -> None:
    repository.commit(one_MLproject="name: one\n")
    (repository.folder / "one/MLproject").touch()
    index = repository.folder / ".git/index"
    before = index.stat().st_mtime_ns
    assert git.source(repository.folder / "one", _FILES, "").revision
    assert index.stat().st_mtime_ns == before
