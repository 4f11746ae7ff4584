"""Other people's git repositories: a revision -> a commit -> its files, with git as a program.

Nothing of a repository is executed: no hooks, no filters of its own. Only the protocols of
adapters.git_url are spoken, and git never asks for a password: credentials come from its own
helpers, from ssh, or from `${NAME}` in a URL, which is handed to git by its environment.

Submodules are brought here and not by `git submodule`: of `.gitmodules` only addresses are read,
and each is held to the same rules as the repository's own.
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

from toolchain.adapters.git_url import PLAIN, PROTOCOLS
from toolchain.adapters.submodules import Submodule, submodules
from toolchain.adapters.variables import filled
from toolchain.digest import Digest
from toolchain.errors import ResolveError, without_credentials
from toolchain.trace import Trace
from toolchain.workfolder import work_folder

_PIN = "git"  # trace stage: repository and revision -> {"commit"}
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?\Z")
_SHORT = re.compile(r"[0-9a-f]{7,39}\Z")
_PATIENCE = 600  # seconds for one call of git
_MOST_SUBMODULES = 1000  # each may name the next twice, so that a few kilobytes name millions


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
        """A checkout of a commit, whole, with its submodules; made if it is not there.

        It borrows the objects of the bare clones, and says as any clone where it is from.

        Raises ResolveError.
        """
        target = self._place(url) / commit
        if target.is_dir():
            return target
        with self._trace.holding("checkout", Digest.of(f"{url} {commit}".encode())):
            if target.is_dir():
                return target
            with work_folder(target.parent / "tmp") as folder:
                made = folder / "files"
                self._check_out(url, commit, made)
                waiting = [(made, item) for item in self._submodules(url, made)]
                for number, (parent, item) in enumerate(waiting):
                    if number == _MOST_SUBMODULES:
                        raise ResolveError(f"more than {_MOST_SUBMODULES} submodules",
                                           where=without_credentials(url),
                                           fix="use a repository that has fewer")
                    place = _place_of(parent, item, url)
                    self._check_out(item.url, item.commit, place)
                    waiting += [(place, more) for more in self._submodules(item.url, place)]
                made.rename(target)
        return target

    def _check_out(self, url: str, commit: str, made: Path) -> None:
        bare = self._fetched(url, commit)
        self._must(url, "init", "--quiet", "--template=", str(made))
        own = made / ".git"
        (own / "info").mkdir(exist_ok=True)
        (own / "info/exclude").write_text("requirements*.lock\n")
        (own / "objects/info").mkdir(parents=True, exist_ok=True)
        (own / "objects/info/alternates").write_text(f"{bare.resolve() / 'objects'}\n")
        if (bare / "shallow").exists():
            shutil.copyfile(bare / "shallow", own / "shallow")
        self._must(url, "-C", str(made), "config", "remote.origin.url", without_credentials(url))
        self._must(url, "-C", str(made), "checkout", "--quiet", "--detach", commit)

    def _submodules(self, url: str, made: Path) -> list[Submodule]:
        """What the commit that is checked out pins of other repositories."""
        if self._git("-C", str(made), "cat-file", "-e", "HEAD:.gitmodules").returncode:
            return []  # whatever is pinned then, nobody knows where it is to be had
        tree = self._must(url, "-C", str(made), "ls-tree", "-r", "-z", "--full-tree", "HEAD")
        named = self._must(url, "-C", str(made), "config", "--blob", "HEAD:.gitmodules",
                           "--no-includes", "-z", "--list")
        return submodules(tree.stdout, named.stdout, url)

    def _place(self, url: str) -> Path:
        return self._folder / Digest.of(without_credentials(url).encode()).hex[:32]

    def _ask(self, url: str, revision: str) -> str:
        listed = self._must(url, "ls-remote", "--quiet", "--", *self._remote(url)).stdout
        refs = {name: commit for commit, _, name in
                (line.partition("\t") for line in listed.splitlines())}
        # `^{}` is the commit of an annotated tag, which is an object of its own.
        full = [revision] if revision.startswith("refs/") else [
            f"refs/tags/{revision}", f"refs/heads/{revision}"]
        names = [name for ref in full for name in (f"{ref}^{{}}", ref)]
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
                      **self._access(url))
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

    def _access(self, url: str) -> dict[str, str]:
        """What git's environment must have for that URL."""
        plain = {"GIT_ALLOW_PROTOCOL": f"{PROTOCOLS}:{PLAIN}"}
        return {**(plain if url.startswith(f"{PLAIN}://") else {}), **self._login(url)}

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
        done = self._git(*arguments, **(self._access(url) if remote else {}), **extra)
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
        environ |= {"GIT_TERMINAL_PROMPT": "0", "GIT_ALLOW_PROTOCOL": PROTOCOLS,
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
                               where=next((without_credentials(a) for a in arguments
                                           if "://" in a), "git"),
                               fix="check the network and run the command again") from None


def _place_of(parent: Path, item: Submodule, url: str) -> Path:
    """The empty folder that git made for it; never through a link that the repository holds."""
    place = parent / item.path
    if place.resolve() != parent.resolve() / item.path or not place.is_dir() or any(
            place.iterdir()):
        raise ResolveError(f"the submodule {item.path!r} has no folder of its own",
                           where=without_credentials(url),
                           fix="use a commit of the repository that is in order")
    return place
