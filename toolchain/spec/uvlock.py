"""uv.lock -> the packages that one member of its workspace needs.

Source: uv's documentation (projects, workspaces, conflicts); the file's `version` is 1.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from toolchain.errors import SpecError
from toolchain.spec import source as sources
from toolchain.spec.lockedfile import check_package, is_name
from toolchain.spec.source import Source

_LOCAL = ("editable", "directory", "virtual")


class UvLock:
    """A parsed uv.lock. `path` is relative to the project's folder, with `/`."""

    def __init__(self, data: Mapping[str, Any], path: str) -> None:
        if data.get("version") != 1:
            raise SpecError("not a uv.lock of version 1", where=path,
                            fix="make it anew with a current uv: `uv lock`")
        packages = data.get("package", [])
        if not isinstance(packages, list) or not all(
                isinstance(item, dict) and is_name(item.get("name"))
                and isinstance(item.get("source"), dict) for item in packages):
            raise SpecError("uv.lock is damaged: a package has no name or source", where=path,
                            fix="make it anew: `uv lock`")
        for package in packages:
            check_package(package, f"{path}, {package['name']}")
        self._packages: list[dict[str, Any]] = packages
        self._by_name: dict[str, list[int]] = {}
        for number, package in enumerate(packages):
            self._by_name.setdefault(package["name"], []).append(number)
        self._path = path

    def member(self, name: str) -> dict[str, Any] | None:
        """The workspace's member of that name."""
        from packaging.utils import canonicalize_name

        named = (self._packages[number]
                 for number in self._by_name.get(canonicalize_name(name), ()))
        return next((package for package in named
                     if any(kind in package["source"] for kind in _LOCAL)), None)

    def packages(self, project: Mapping[str, Any],
                 environment: Mapping[str, str] | None) -> list[dict[str, Any]]:
        """What the project needs, itself left out, in the lock's order.

        `project` is its pyproject.toml. `environment` decides markers (PEP 508); without one
        every marker holds. Raises SpecError.
        """
        found: set[int] = set()
        root = self._root(project)
        waiting: list[Mapping[str, Any]] = [*_dependencies(root.get("dependencies"))]
        groups = root.get("dev-dependencies")
        for group in _groups(project):
            if isinstance(groups, dict):
                waiting += _dependencies(groups.get(group))
        seen: set[tuple[int, str]] = set()
        while waiting:
            wanted = waiting.pop()
            if not holds(wanted.get("marker"), environment, self._path):
                continue
            for number in self._numbers(wanted, environment):
                package = self._packages[number]
                for extra in ("", *_texts(wanted.get("extra"))):
                    if (number, extra) in seen:
                        continue
                    seen.add((number, extra))
                    optional = package.get("optional-dependencies")
                    more = (package.get("dependencies") if not extra
                            else optional.get(extra) if isinstance(optional, dict) else None)
                    waiting += _dependencies(more)
                if package is not root:
                    found.add(number)
        return [self._packages[number] for number in sorted(found)]

    def sources(self, project: Mapping[str, Any]) -> Iterator[Source]:
        """Those of the packages that are of no index, whatever the markers say."""
        for package in self.packages(project, None):
            source, where = package["source"], f"{self._path}, {package['name']}"
            name = package["name"]
            for kind in _LOCAL[:2]:
                if kind in source:
                    yield sources.read(f"{name} @ {self._place(source[kind])}", (), where)
            if "git" in source:
                yield sources.read(f"{name} @ {_git(str(source['git']), where)}", (), where)
            elif "url" in source or "path" in source:
                place = str(source.get("url") or self._place(source.get("path")))
                part = source.get("subdirectory")
                yield sources.read(f"{name} @ {place}{f'#subdirectory={part}' if part else ''}",
                                   _hashes_of(package, where), where)

    def indexes(self, named: Iterable[str]) -> list[str]:
        """Of the indexes that the project names, those that the lock's files come from.

        What else a lock names was a setting of the machine that made it; here this machine's
        own settings take its place.
        """
        found = set()
        for package in self._packages:
            url = package["source"].get("registry")
            if isinstance(url, str) and "://" in url:
                sources.check_secret(url, f"{self._path}, {package['name']}")
                found.add(url)
        return [url for url in dict.fromkeys(named) if url in found]

    def _root(self, project: Mapping[str, Any]) -> dict[str, Any]:
        table = project.get("project")
        name = table.get("name") if isinstance(table, dict) else None
        root = self.member(name) if isinstance(name, str) else None
        if root is None:
            raise SpecError(f"uv.lock has no member {name or 'for this project'}",
                            where=self._path,
                            fix="run `uv lock`; the project's pyproject.toml gives its name")
        return root

    def _place(self, text: Any) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(self._path), str(text)))
        return path if path.startswith((".", "/")) else f"./{path}"

    def _numbers(self, wanted: Mapping[str, Any],
                 environment: Mapping[str, str] | None) -> list[int]:
        """The package that a dependency means; several only where no environment decides."""
        found = [number for number in self._by_name.get(str(wanted.get("name")), ())
                 if wanted.get("version") in (None, self._packages[number].get("version"))
                 and wanted.get("source") in (None, self._packages[number]["source"])]
        if not found:
            raise SpecError(f"uv.lock is damaged: {wanted.get('name')} is needed and not there",
                            where=self._path, fix="make it anew: `uv lock`")
        if environment is None:
            return found
        fit = [number for number in found
               if any(holds(marker, environment, self._path)
                      for marker in self._packages[number].get("resolution-markers") or ("",))]
        return (fit or found)[:1]


def _groups(project: Mapping[str, Any]) -> list[str]:
    """uv's default groups without `dev`."""
    tool = project.get("tool")
    uv = tool.get("uv") if isinstance(tool, dict) else None
    chosen = uv.get("default-groups") if isinstance(uv, dict) else None
    if chosen == "all":
        groups = project.get("dependency-groups")
        chosen = list(groups) if isinstance(groups, dict) else []
    return [name for name in _texts(chosen) if name != "dev"]


def _texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _dependencies(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def holds(marker: Any, environment: Mapping[str, Any] | None, where: str) -> bool:
    """Whether a marker is true in an environment; any is without one. Raises SpecError."""
    if not marker or environment is None:
        return True
    from packaging.markers import (
        InvalidMarker,
        Marker,
        UndefinedComparison,
        UndefinedEnvironmentName,
    )

    try:
        return Marker(str(marker)).evaluate(dict(environment), context="lock_file")
    except (InvalidMarker, UndefinedComparison, UndefinedEnvironmentName,
            SyntaxError, RecursionError) as error:
        raise SpecError(f"not a marker: {marker} ({str(error).splitlines()[0]})", where=where,
                        fix="make the lock anew") from None


def _git(url: str, where: str) -> str:
    """uv's `https://host/repo?rev=main&subdirectory=x#COMMIT` as pip writes it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if not parts.fragment:
        raise SpecError("uv.lock is damaged: a git source without a commit", where=where,
                        fix="make it anew: `uv lock`")
    part = parse_qs(parts.query).get("subdirectory", [""])[0]
    place = f"git+{parts.scheme}://{parts.netloc}{parts.path}@{parts.fragment}"
    return place + (f"#subdirectory={part}" if part else "")


def _hashes_of(package: Mapping[str, Any], where: str) -> tuple[str, ...]:
    files = [*(package.get("wheels") or ()), *([package["sdist"]] if "sdist" in package else ())]
    found = tuple(str(file.get("hash", "")).removeprefix("sha256:") for file in files
                  if isinstance(file, dict))
    if not found:
        raise SpecError("uv.lock has no hash for it", where=where, fix="make it anew: `uv lock`")
    return found
