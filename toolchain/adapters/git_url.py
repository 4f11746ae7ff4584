"""A repository's URL as somebody wrote it -> one that git may be given, or an error.

Two writers: whoever calls this program, and the `.gitmodules` of a repository, which is trusted
with less: it may not name a file of this machine, nor a variable of the environment.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from toolchain.errors import ResolveError, without_credentials
from toolchain.spec.source import holds_secret

PROTOCOLS = "file:git:https:ssh"
# Anyone on the way can read and change what http:// brings, but not the files of a commit that is
# known. So it is spoken where the URL asks for it, and no redirect leads to it.
PLAIN = "http"
# No project has a `:` in its name. A path that does not begin with `/` begins in a home there,
# for which ssh:// has no word that all servers know.
_SCP = re.compile(r"(?:(?!-)[\w.-]+@)?(?!-)[\w.-]+:(?!//|:)[^\s$\x00-\x1f]+\Z")


def is_url(text: str) -> bool:
    """Whether a word is a repository's URL as git and MLflow take it, and not a name."""
    return "://" in text or bool(_SCP.match(text)) or text.startswith("git+")


def split(text: str) -> tuple[str, str]:
    """`URL#folder` -> URL, folder. Raises ResolveError for what is not followed."""
    url, _, folder = text.removeprefix("git+").partition("#")
    folder = folder.removeprefix("subdirectory=").strip("/")
    if not _SCP.match(url):
        _check(url)
    if ".." in folder.split("/") or any(ord(letter) < 32 for letter in folder):
        raise ResolveError(f"leaves the repository: {folder}", where=without_credentials(url),
                           fix="name a folder within it, as in URL#folder")
    return url, folder


def _check(url: str) -> None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ResolveError("not a repository's URL", where=without_credentials(url),
                           fix="give it as https://host/repository.git") from None
    if parts.scheme not in (*PROTOCOLS.split(":"), PLAIN) or re.search(r"[\s\x00-\x1f]", url):
        raise ResolveError(f"repositories by {parts.scheme or 'path'}:// are not followed",
                           where=without_credentials(url),
                           fix="use https://, ssh://, git://, http:// or file://")
    if holds_secret(url):
        raise ResolveError("a user or password is written into the URL",
                           where=without_credentials(url),
                           fix="use git's credential helper, ssh, or ${NAME} in its place")


def of_submodule(written: str, parent: str) -> str:
    """The URL of a submodule that the repository at `parent` names. Raises ResolveError."""
    if written.startswith(("./", "../")):
        return _beside(parent, written)
    shown = without_credentials(written)
    if "${" in written:
        raise ResolveError("it asks for a variable of the environment", where=shown,
                           fix="no secret is given to an address that a repository chose")
    url, _ = split(written)
    if url.startswith("file:") and not parent.startswith("file:"):
        raise ResolveError("it names a file of this machine", where=shown,
                           fix="only a repository of this machine may do so")
    if "#" in written:
        raise ResolveError("it names a folder of a repository", where=shown,
                           fix="a submodule is a whole repository")
    return url


def _beside(parent: str, relative: str) -> str:
    """As git has it: `../x` is what stands beside `parent`, `./x` what is below it."""
    known = re.match(r"([^:/]+://[^/]*|[^:/]+:)(/?)(.*)\Z", parent, re.DOTALL)
    assert known is not None  # split() let it pass
    path, rest = known[3].rstrip("/"), relative
    while rest.startswith(("./", "../")):
        if rest.startswith("../"):
            if not path:
                raise ResolveError("it leaves the server", where=relative,
                                   fix="it begins with more `../` than its repository has folders")
            path = path.rpartition("/")[0]
        rest = rest.partition("/")[2]
    slash = "/" if "://" in known[1] else known[2]
    url = known[1] + slash + (f"{path}/" if path else "") + rest
    if "#" in rest or "${" in rest or ".." in rest.split("/"):
        raise ResolveError("not an address beside its repository", where=relative,
                           fix="write it as in ../other.git")
    split(url)
    return url.rstrip("/")
