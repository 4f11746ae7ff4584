"""Other people's git repositories: a revision -> a commit -> its files, with git as a program.

Nothing of a repository is executed: no hooks, no submodules, no filters of its own. Only
protocols on the list below are spoken, and git never asks for a password: credentials come from
its own helpers, from ssh, or from `${NAME}` in a URL, which is handed to git by its environment.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from toolchain.adapters.variables import filled
from toolchain.adapters.workfolder import work_folder
from toolchain.digest import Digest
from toolchain.errors import ResolveError, without_credentials
from toolchain.trace import Trace

_PROTOCOLS = "file:git:https:ssh"
_PIN = "git"  # trace stage: repository and revision -> {"commit"}
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?\Z")
_SHORT = re.compile(r"[0-9a-f]{7,39}\Z")
_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")
_SCP = re.compile(r"([\w.-]+@[\w.-]+):(?!/)([^\s]+)\Z")
_PATIENCE = 600  # seconds for one call of git


def is_url(text: str) -> bool:
    """Whether a word is a repository's URL as git and MLflow take it, and not a name."""
    return "://" in text or bool(_SCP.match(text)) or text.startswith("git+")


def split(text: str) -> tuple[str, str]:
    """`URL#folder` -> URL, folder. Raises ResolveError for what is not followed."""
    url, _, folder = text.removeprefix("git+").partition("#")
    folder = folder.removeprefix("subdirectory=").strip("/")
    if scp := _SCP.match(url):
        url = f"ssh://{scp[1]}/{scp[2]}"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ResolveError("not a repository's URL", where=without_credentials(url),
                           fix="give it as https://host/repository.git") from None
    if parts.scheme not in _PROTOCOLS.split(":") or re.search(r"[\s\x00-\x1f]", url):
        raise ResolveError(f"repositories by {parts.scheme or 'path'}:// are not followed",
                           where=without_credentials(url),
                           fix="use https://, ssh://, git:// or file://")
    if parts.password and not _VARIABLE.fullmatch(parts.password):
        raise ResolveError("a password is written into the URL", where=without_credentials(url),
                           fix="use git's credential helper, ssh, or ${NAME} in its place")
    if ".." in folder.split("/") or any(ord(letter) < 32 for letter in folder):
        raise ResolveError(f"leaves the repository: {folder}", where=without_credentials(url),
                           fix="name a folder within it, as in URL#folder")
    return url, folder


class Repositories:
    """Repositories under `folder`, one bare clone for each URL; a commit's files beside it."""

    def __init__(self, folder: Path, environ: Mapping[str, str], trace: Trace) -> None:
        self._folder = folder
        self._environ = environ
        self._trace = trace

    def pin(self, url: str, revision: str, *, anew: bool = False) -> str:
        """The commit that a branch, tag or commit stands for; empty: the remote's HEAD.

        What was found is remembered, and asked again only with `anew`. Raises ResolveError.
        """
        if _COMMIT.match(revision):
            return revision
        key = Digest.of_json({"url": url, "revision": revision})
        known = self._trace.get(_PIN, key)
        if known is not None and not anew:
            return str(known["commit"])
        with self._trace.holding(_PIN, key):
            commit = self._ask(url, revision)
            self._trace.note(_PIN, key, {"commit": commit})
        return commit

    def files(self, url: str, commit: str) -> Path:
        """A checkout of a commit, whole; made if it is not there.

        It borrows the objects of the bare clone, and says as any clone where it is from.

        Raises ResolveError.
        """
        target = self._place(url) / commit
        if target.is_dir():
            return target
        with self._trace.holding("checkout", Digest.of(f"{url} {commit}".encode())):
            if target.is_dir():
                return target
            bare = self._fetched(url, commit)
            with work_folder(target.parent / "tmp") as folder:
                made = folder / "files"
                self._must(url, "init", "--quiet", "--template=", str(made))
                own = made / ".git"
                (own / "info").mkdir(exist_ok=True)
                (own / "info/exclude").write_text("requirements*.lock\n")
                (own / "objects/info").mkdir(parents=True, exist_ok=True)
                (own / "objects/info/alternates").write_text(f"{bare.resolve() / 'objects'}\n")
                if (bare / "shallow").exists():
                    shutil.copyfile(bare / "shallow", own / "shallow")
                self._must(url, "-C", str(made), "config", "remote.origin.url",
                           without_credentials(url))
                self._must(url, "-C", str(made), "checkout", "--quiet", "--detach", commit)
                made.rename(target)
        return target

    def _place(self, url: str) -> Path:
        return self._folder / Digest.of(without_credentials(url).encode()).hex[:32]

    def _ask(self, url: str, revision: str) -> str:
        listed = self._must(url, "ls-remote", "--quiet", "--", *self._remote(url)).stdout
        refs = {name: commit for commit, _, name in
                (line.partition("\t") for line in listed.splitlines())}
        names = [revision] if revision.startswith("refs/") else [
            f"refs/tags/{revision}^{{}}", f"refs/tags/{revision}", f"refs/heads/{revision}"]
        for name in names if revision else ["HEAD"]:
            if name in refs:
                return refs[name]
        if _SHORT.match(revision):
            with self._clone(url) as bare:
                self._fetch_all(url, bare)
                done = self._git("--git-dir", str(bare), "rev-parse", "--verify", "--quiet",
                                 "--end-of-options", f"{revision}^{{commit}}")
            if done.returncode == 0:
                return done.stdout.strip()
        from toolchain.errors import nearest

        short = [name.split("/", 2)[-1] for name in refs if not name.endswith("^{}")]
        raise ResolveError(
            f"no branch, tag or commit {revision!r}{nearest(revision, short)}" if revision
            else "the repository has no commit", where=without_credentials(url),
            fix="name one that is there; `git ls-remote` lists them")

    @contextlib.contextmanager
    def _clone(self, url: str) -> Iterator[Path]:
        """The bare clone; nobody else fetches into it meanwhile."""
        bare = self._place(url) / "git"
        with self._trace.holding("clone", Digest.of(without_credentials(url).encode())):
            for left in bare.rglob("*.lock"):  # by a git that was killed
                left.unlink()
            bare.parent.mkdir(parents=True, exist_ok=True)
            self._must(url, "init", "--quiet", "--bare", "--template=", str(bare))
            yield bare

    def _fetched(self, url: str, commit: str) -> Path:
        """The bare clone, with that commit in it."""
        with self._clone(url) as bare:
            if self._has(bare, commit):
                return bare
            # Not every server gives out a commit by its name.
            self._git("--git-dir", str(bare), "fetch", "--quiet", "--depth=1", "--no-tags",
                      "--no-recurse-submodules", "--", *self._remote(url), commit,
                      **self._login(url))
            if not self._has(bare, commit):
                self._fetch_all(url, bare)
            if not self._has(bare, commit):
                raise ResolveError(f"the repository has no commit {commit}",
                                   where=without_credentials(url),
                                   fix="it was taken away there; name another, or pin with "
                                       "upgrade=1")
            return bare

    def _fetch_all(self, url: str, bare: Path) -> None:
        shallow = ["--unshallow"] if (bare / "shallow").exists() else []
        self._must(url, "--git-dir", str(bare), "fetch", "--quiet", "--force", "--tags", *shallow,
                   "--no-recurse-submodules", "--", *self._remote(url),
                   "+refs/heads/*:refs/heads/*")

    def _has(self, bare: Path, commit: str) -> bool:
        return self._git("--git-dir", str(bare), "cat-file", "-e",
                         f"{commit}^{{commit}}").returncode == 0

    def _remote(self, url: str) -> list[str]:
        """The URL as git's command line may hold it: anyone on the machine can read that."""
        return [without_credentials(url) if "${" in url else url]

    def _login(self, url: str) -> dict[str, str]:
        """What makes git put `${NAME}`'s value into the URL, in its environment."""
        if "${" not in url:
            return {}

        parts = urlsplit(filled(url, self._environ))
        host = parts.netloc.rpartition("@")[2]
        known = self._environ.get("GIT_CONFIG_COUNT", "")
        number = int(known) if known.isdigit() else 0
        return {"GIT_CONFIG_COUNT": str(number + 1),
                f"GIT_CONFIG_KEY_{number}": "url." + urlunsplit(
                    (parts.scheme, parts.netloc, "/", "", "")) + ".insteadOf",
                f"GIT_CONFIG_VALUE_{number}": f"{parts.scheme}://{host}/"}

    def _must(self, url: str, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        remote = any(word in ("fetch", "ls-remote") for word in arguments)
        done = self._git(*arguments, **(self._login(url) if remote else {}), **extra)
        if done.returncode:
            said = " ".join(without_credentials(done.stderr).split())[:400]
            raise ResolveError(f"git failed: {said or 'without a word'}",
                               where=without_credentials(url),
                               fix="check the URL, the network, and that git on this machine can "
                                   "read the repository without asking")
        return done

    def _git(self, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        environ = {name: value for name, value in self._environ.items()
                   if name not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX",
                                   "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_NAMESPACE")}
        environ |= {"GIT_TERMINAL_PROMPT": "0", "GIT_ALLOW_PROTOCOL": _PROTOCOLS,
                    "GIT_LFS_SKIP_SMUDGE": "1", "LC_ALL": "C", **extra}
        environ.setdefault("GIT_SSH_COMMAND", "ssh -o BatchMode=yes")
        program = shutil.which("git", path=environ.get("PATH", os.defpath))
        if program is None:
            raise ResolveError("git is not on this machine", where="PATH", fix="install git")
        try:
            return subprocess.run(
                [program, "-c", "core.hooksPath=/dev/null", "-c", "submodule.recurse=false",
                 "-c", "core.autocrlf=false", "-c", "gc.auto=0", *arguments],
                capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL,
                env=environ, timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            raise ResolveError(f"git did not end within {_PATIENCE} s",
                               where=next((a for a in arguments if "://" in a), "git"),
                               fix="check the network and run the command again") from None
