"""Other people's repositories: revisions, commits, checkouts, and what git is not let do."""

from __future__ import annotations

import contextlib
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from tests.adapters.test_sources import git
from tests.support.loopback import Loopback
from toolchain.adapters import repository
from toolchain.adapters.git_url import is_url, of_submodule, split
from toolchain.adapters.repository import Repositories
from toolchain.errors import ResolveError
from toolchain.journal import Journal
from toolchain.trace import Trace


class Upstream:
    """A repository with two commits on main, a branch, a tag."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"file://{folder}"
        folder.mkdir()
        git(folder, "init", "-q", "-b", "main")
        self.first = self.commit("one")
        git(folder, "tag", "-a", "v1", "-m", "v1")
        git(folder, "branch", "side")
        self.second = self.commit("two")

    def commit(self, text: str) -> str:
        (self.folder / "file").write_text(text)
        git(self.folder, "add", "-A")
        git(self.folder, "commit", "-qm", text)
        return git(self.folder, "rev-parse", "HEAD")


@pytest.fixture
def upstream(tmp_path: Path) -> Upstream:
    return Upstream(tmp_path / "upstream")


@pytest.fixture
def repositories(tmp_path: Path) -> Repositories:
    cache = tmp_path / "cache"
    return Repositories(cache / "git", os.environ, Trace(cache, Journal(cache)))


def test_a_revision_is_a_branch_a_tag_or_a_commit(
    repositories: Repositories, upstream: Upstream
) -> None:
    assert repositories.pin(upstream.url, "") == upstream.second
    for name in ("side", "v1", upstream.first, upstream.first[:9], "refs/heads/side",
                 "refs/tags/v1"):
        assert repositories.pin(upstream.url, name) == upstream.first


def test_a_branch_is_asked_again_only_when_told(
    repositories: Repositories, upstream: Upstream
) -> None:
    repositories.pin(upstream.url, "main")
    third = upstream.commit("three")
    assert repositories.pin(upstream.url, "main") == upstream.second
    assert repositories.pin(upstream.url, "main", anew=True) == third
    assert repositories.pin(upstream.url, "main") == third


def test_what_was_pinned_needs_no_repository_any_more(
    repositories: Repositories, upstream: Upstream
) -> None:
    commit = repositories.pin(upstream.url, "v1")
    folder = repositories.files(upstream.url, commit)
    upstream.folder.rename(upstream.folder.with_name("gone"))
    assert repositories.files(upstream.url, repositories.pin(upstream.url, "v1")) == folder
    assert (folder / "file").read_text() == "one"


def test_locks_that_a_killed_git_left_hold_nobody_up(
    repositories: Repositories, upstream: Upstream
) -> None:
    repositories.files(upstream.url, upstream.first)
    (bare,) = upstream.folder.parent.glob("cache/git/*/git")
    for name in ("shallow.lock", "config.lock", "packed-refs.lock", "refs/heads/main.lock"):
        (bare / name).parent.mkdir(parents=True, exist_ok=True)
        (bare / name).write_text("")
    assert (repositories.files(upstream.url, upstream.second) / "file").read_text() == "two"
    assert repositories.pin(upstream.url, upstream.first[:9]) == upstream.first


def test_commits_of_one_repository_are_brought_at_once(
    repositories: Repositories, upstream: Upstream
) -> None:
    commits = [upstream.commit(f"number {number}") for number in range(8)]
    with ThreadPoolExecutor(len(commits)) as pool:
        folders = list(pool.map(lambda commit: repositories.files(upstream.url, commit), commits))
    assert [(folder / "file").read_text() for folder in folders] == [
        f"number {number}" for number in range(8)]


def test_a_checkout_says_where_it_is_from(repositories: Repositories, upstream: Upstream) -> None:
    folder = repositories.files(upstream.url, upstream.first)
    assert git(folder, "rev-parse", "HEAD") == upstream.first
    assert git(folder, "remote", "get-url", "origin") == upstream.url
    (folder / "requirements.lock").write_text("x")
    assert git(folder, "status", "--porcelain") == ""


def test_hooks_are_left_alone(
    repositories: Repositories, upstream: Upstream, tmp_path: Path
) -> None:
    template = tmp_path / "template/hooks"
    template.mkdir(parents=True)
    hook = template / "post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/hooked\n")
    hook.chmod(0o755)
    environ = {**os.environ, "GIT_TEMPLATE_DIR": str(template.parent)}
    made = Repositories(tmp_path / "other", environ,
                        Trace(tmp_path / "o", Journal(tmp_path / "o")))
    folder = made.files(upstream.url, upstream.commit("four"))
    assert (folder / "file").read_text() == "four"
    assert not (tmp_path / "hooked").exists()


def pinned(upstream: Upstream, path: str, url: str, commit: str, more: str = "") -> str:
    """Another repository within this one; the commit that pins it."""
    with open(upstream.folder / ".gitmodules", "a") as stream:
        stream.write(f'[submodule "{path}"]\n\tpath = {path}\n\turl = {url}\n{more}')
    git(upstream.folder, "add", ".gitmodules")
    git(upstream.folder, "update-index", "--add", "--cacheinfo", f"160000,{commit},{path}")
    git(upstream.folder, "commit", "-qm", f"{path} is {commit}")
    return git(upstream.folder, "rev-parse", "HEAD")


def test_submodules_are_brought_as_they_are_pinned(
    repositories: Repositories, upstream: Upstream, tmp_path: Path
) -> None:
    inner, middle = Upstream(tmp_path / "inner"), Upstream(tmp_path / "middle")
    nested = pinned(middle, "deep/inner", "../inner", inner.first)
    middle.commit("not this")
    commit = pinned(upstream, "libs/middle", middle.url, nested)
    commit = pinned(upstream, "never", "ext::sh -c false", inner.first, "\tupdate = none\n")
    folder = repositories.files(upstream.url, commit)
    assert (folder / "libs/middle/file").read_text() == "two"
    assert (folder / "libs/middle/deep/inner/file").read_text() == "one"
    assert list((folder / "never").iterdir()) == []
    assert git(folder, "status", "--porcelain") == ""
    (folder / "libs/middle/requirements.lock").write_text("x")
    assert git(folder, "status", "--porcelain") == ""
    assert git(folder / "libs/middle/deep/inner", "remote", "get-url", "origin") == inner.url


def test_what_a_repository_says_of_submodules_is_not_executed(
    repositories: Repositories, upstream: Upstream, tmp_path: Path
) -> None:
    other = Upstream(tmp_path / "other")
    hooked = f"!touch {tmp_path}/hooked"
    commit = pinned(upstream, "x", other.url, other.first,
                    f'\tupdate = "{hooked}"\n[alias]\n\tcheckout = "{hooked}"\n'
                    f'[core]\n\tfsmonitor = "touch {tmp_path}/hooked"\n')
    assert (repositories.files(upstream.url, commit) / "x/file").read_text() == "one"
    assert not (tmp_path / "hooked").exists()


@pytest.mark.parametrize(("url", "what"), [
    ("ext::sh -c false", "repositories by ext:// are not followed"),
    ("/srv/other.git", "repositories by path:// are not followed"),
    ("https://me:s3cr3t@host.invalid/a", "a user or password is written into the URL"),
    ("https://s3cr3t@host.invalid/a", "a user or password is written into the URL"),
    ("https://${HOME}@host.invalid/a", "it asks for a variable of the environment"),
    ("--upload-pack=touch", "repositories by path:// are not followed"),
    ("file:///nothing/here", "git failed"),
    ("../../../../../../../../../../x", "it leaves the server"),
    ("", "no address is given for the submodule 'x'"),
])
def test_a_submodule_that_is_not_followed_is_an_error(
    repositories: Repositories, upstream: Upstream, url: str, what: str
) -> None:
    commit = pinned(upstream, "x", f'"{url}"', upstream.first)
    for _ in range(2):  # nothing half made is left
        with pytest.raises(ResolveError) as caught:
            repositories.files(upstream.url, commit)
        assert what in str(caught.value)
        assert "s3cr3t" not in str(caught.value)


def test_a_submodule_goes_through_no_link(
    repositories: Repositories, upstream: Upstream, tmp_path: Path
) -> None:
    """A tree that names a link and something behind it; no git writes such a one."""
    target = tmp_path / "elsewhere"
    (target / "x").mkdir(parents=True)
    pinned(upstream, "a/x", upstream.url, upstream.first)
    link = subprocess.run(["git", "-C", upstream.folder, "hash-object", "-w", "--stdin"],
                          input=str(target), capture_output=True, text=True, check=True).stdout
    entries = git(upstream.folder, "ls-tree", "HEAD") + f"\n120000 blob {link.strip()}\ta\n"
    tree = subprocess.run(["git", "-C", upstream.folder, "mktree"], input=entries,
                          capture_output=True, text=True, check=True).stdout.strip()
    commit = git(upstream.folder, "commit-tree", tree, "-m", "both")
    git(upstream.folder, "update-ref", "refs/heads/main", commit)
    with contextlib.suppress(ResolveError):  # which of the two is taken, git decides
        repositories.files(upstream.url, commit)
    assert list((target / "x").iterdir()) == []


@pytest.mark.parametrize(("parent", "written", "expected"), [
    ("https://host/me/a.git", "../b.git", "https://host/me/b.git"),
    ("https://host/a.git/", "../../b.git", None),
    ("https://me:${TOKEN}@host/me/a", "./b", "https://me:${TOKEN}@host/me/a/b"),
    ("https://host/a", "ssh://git@host/b", "ssh://git@host/b"),
    ("https://host/a", "file:///etc", None),
    ("https://host/a", "../b#c", None),
    ("https://host/a", "../${TOKEN}", None),
    ("https://host/a", "../b/../../c", None),
    ("ssh://git@host/me/a", "../b", "ssh://git@host/me/b"),
    ("git@host:me/a.git", "../b.git", "git@host:me/b.git"),
    ("host:a.git", "../b.git", "host:b.git"),
    ("host:/a.git", "../b.git", "host:/b.git"),
    ("host:a.git", "../../b.git", None),
    ("http://host/a.git", "../b.git", "http://host/b.git"),
    ("https://host/a", "other:b", "other:b"),
])
def test_an_address_of_a_submodule(parent: str, written: str, expected: str | None) -> None:
    if expected is not None:
        assert of_submodule(written, parent) == expected
        return
    with pytest.raises(ResolveError):
        of_submodule(written, parent)


@pytest.mark.parametrize(("revision", "what"), [
    ("mian", "no branch, tag or commit 'mian' (did you mean 'main'?)"),
    ("0123456789", "no branch, tag or commit '0123456789'"),
])
def test_a_revision_that_is_not_there_is_named(
    repositories: Repositories, upstream: Upstream, revision: str, what: str
) -> None:
    with pytest.raises(ResolveError) as caught:
        repositories.pin(upstream.url, revision)
    assert caught.value.what == what


def test_a_commit_that_is_not_there_is_named(
    repositories: Repositories, upstream: Upstream
) -> None:
    with pytest.raises(ResolveError, match="has no commit 0000"):
        repositories.files(upstream.url, "0" * 40)


def test_a_repository_that_is_not_there_is_named(
    repositories: Repositories, tmp_path: Path
) -> None:
    with pytest.raises(ResolveError, match="git failed"):
        repositories.pin(f"file://{tmp_path}/nothing", "main")


def test_a_variable_reaches_git_by_its_environment(tmp_path: Path) -> None:
    """A program in git's place writes down what it is called with."""
    program = tmp_path / "bin/git"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/said\n'
                       f'echo "$GIT_CONFIG_KEY_0 $GIT_CONFIG_VALUE_0" > {tmp_path}/env\nexit 1\n')
    program.chmod(0o755)
    made = Repositories(tmp_path / "git", {"PATH": str(program.parent), "TOKEN": "s3/cr3t"},
                        Trace(tmp_path / "c", Journal(tmp_path / "c")))
    with pytest.raises(ResolveError) as caught:
        made.pin("https://me:${TOKEN}@host.invalid/x.git", "main")
    said = (tmp_path / "said").read_text()
    assert "https://host.invalid/x.git" in said
    assert "cr3t" not in said + str(caught.value)
    assert (tmp_path / "env").read_text() == (
        "url.https://me:s3%2Fcr3t@host.invalid/.insteadOf https://host.invalid/\n")


def test_a_git_that_does_not_end_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin/git"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(repository, "_PATIENCE", 0.5)
    made = Repositories(tmp_path / "git", {"PATH": f"{program.parent}:{os.environ['PATH']}"},
                        Trace(tmp_path / "c", Journal(tmp_path / "c")))
    with pytest.raises(ResolveError, match="did not end") as caught:
        made.pin("https://git@host.invalid/x.git", "main")
    assert caught.value.where == "https://host.invalid/x.git"


def test_a_repository_by_http(
    repositories: Repositories, upstream: Upstream, tmp_path: Path
) -> None:
    git(upstream.folder, "update-server-info")
    with Loopback(lambda *given: SimpleHTTPRequestHandler(*given, directory=tmp_path)) as server:
        url, folder = split(f"{server.url}/upstream/.git#sub")
        assert folder == "sub"
        commit = repositories.pin(url, "v1")
        assert (repositories.files(url, commit) / "file").read_text() == "one"


def test_no_redirect_leads_to_http(
    repositories: Repositories, upstream: Upstream, tmp_path: Path
) -> None:
    """git is told so by its environment, for every URL that is not itself one."""
    program = tmp_path / "bin/git"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$GIT_ALLOW_PROTOCOL" >> {tmp_path}/env\nexit 1\n')
    program.chmod(0o755)
    made = Repositories(tmp_path / "git", {"PATH": str(program.parent)},
                        Trace(tmp_path / "c", Journal(tmp_path / "c")))
    for url in ("https://host.invalid/x", "http://host.invalid/x"):
        with pytest.raises(ResolveError):
            made.pin(url, "main")
    assert (tmp_path / "env").read_text().split() == [
        "file:git:https:ssh", "file:git:https:ssh:http"]


def test_a_path_on_a_host_begins_in_a_home_there(
    upstream: Upstream, tmp_path: Path
) -> None:
    """What stands for ssh runs the command in that home, on this machine."""
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\nfor last; do :; done\ncd {tmp_path} && exec sh -c "$last"\n')
    ssh.chmod(0o755)
    made = Repositories(tmp_path / "git", {**os.environ, "GIT_SSH_COMMAND": str(ssh)},
                        Trace(tmp_path / "c", Journal(tmp_path / "c")))
    url, _ = split("host:upstream#x")
    assert (made.files(url, made.pin(url, "v1")) / "file").read_text() == "one"


@pytest.mark.parametrize(("text", "expected"), [
    ("https://host.invalid/a.git#one/two", ("https://host.invalid/a.git", "one/two")),
    ("git@host.invalid:me/a.git", ("git@host.invalid:me/a.git", "")),
    ("host:a.git#one", ("host:a.git", "one")),
    ("git+host.invalid:/srv/a", ("host.invalid:/srv/a", "")),
    ("http://host.invalid/a", ("http://host.invalid/a", "")),
    ("https://${TOKEN}@host.invalid/a", ("https://${TOKEN}@host.invalid/a", "")),
    ("https://me:${TOKEN}@host.invalid/a", ("https://me:${TOKEN}@host.invalid/a", "")),
    ("https://git@host.invalid/a", ("https://git@host.invalid/a", "")),
    ("ssh://me@host.invalid/a", ("ssh://me@host.invalid/a", "")),
    ("git+ssh://git@host.invalid/a#subdirectory=x", ("ssh://git@host.invalid/a", "x")),
    ("file:///srv/a.git", ("file:///srv/a.git", "")),
])
def test_urls_are_those_that_mlflow_takes(text: str, expected: tuple[str, str]) -> None:
    assert is_url(text)
    assert split(text) == expected


@pytest.mark.parametrize("text", [
    "ext::sh -c 'touch x'://", "ftp://host.invalid/a", "ext::x", "--upload-pack=x://y",
    "https://host.invalid/a#../../x", "https://me:s3cr3t@host.invalid/a", "https://[/a",
    "https://host.invalid/a b", "-oProxyCommand=x:y", "me@-oProxyCommand=x:y", "host:${HOME}",
    "http://me:s3cr3t@host.invalid/a", "https://s3cr3t@host.invalid/a",
    "https://s3cr3t:@host.invalid/a", "git+https://s3cr3t:x-oauth-basic@host.invalid/a",
    "ssh://git:s3cr3t@host.invalid/a",
])
def test_a_url_that_is_not_followed_is_refused(text: str) -> None:
    with pytest.raises(ResolveError) as caught:
        split(text)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("text", ["elasticnet", "a,b", "my project", "-a:b", "a :b"])
def test_a_name_is_no_url(text: str) -> None:
    assert not is_url(text)
