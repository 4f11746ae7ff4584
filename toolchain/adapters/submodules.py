"""A commit's tree and its .gitmodules -> the submodules: where each is from, at which commit."""

from __future__ import annotations

import re

from toolchain.adapters.git_url import of_submodule
from toolchain.errors import ResolveError, without_credentials
from toolchain.values import dataclass

_GITLINK = re.compile(r"160000 commit ([0-9a-f]+)\t(.*)\Z", re.DOTALL)
_SETTING = re.compile(r"submodule\.(.*)\.(path|url|update)\n(.*)\Z", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submodule:
    """A repository within a repository. path: where it belongs there."""

    path: str
    url: str
    commit: str


def submodules(tree: str, settings: str, parent: str) -> list[Submodule]:
    """Those that the tree pins, as `git submodule update --init` would take them.

    tree: what `git ls-tree -r -z` says. settings: what `git config -z --list` says of .gitmodules.
    parent: the URL of the repository. Raises ResolveError.
    """
    named: dict[str, dict[str, str]] = {}
    for entry in settings.split("\0"):
        if found := _SETTING.match(entry):
            named.setdefault(found[1], {})[found[2]] = found[3]
    by_path = {item["path"].rstrip("/"): item for item in named.values() if "path" in item}
    pinned = filter(None, map(_GITLINK.match, tree.split("\0")))
    return [Submodule(path=path, url=_url(by_path.get(path, {}), path, parent), commit=commit)
            for commit, path in (found.groups() for found in pinned)
            if by_path.get(path, {}).get("update") != "none"]


def _url(item: dict[str, str], path: str, parent: str) -> str:
    where = f".gitmodules of {without_credentials(parent)}"
    if not item.get("url"):
        raise ResolveError(f"no address is given for the submodule {path!r}", where=where,
                           fix="use a commit of the repository that is in order")
    try:
        return of_submodule(item["url"], parent)
    except ResolveError as error:
        raise ResolveError(f"the submodule {path!r} cannot be had: {error.what}",
                           where=f"{where}: {error.where}", fix=error.fix) from None
