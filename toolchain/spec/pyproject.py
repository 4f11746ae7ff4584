"""pyproject.toml, uv.lock, pylock.toml -> what is to be installed.

A lock that is there is used as it stands: its packages, its versions, its hashes. What is
installed is what `uv sync --no-dev` would install, but for the project itself, which is not a
package here unless it is asked for by `.`.
Source: PEP 621, PEP 735, PEP 751; uv's documentation of projects, workspaces and sources.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import Any

from toolchain.errors import SpecError
from toolchain.spec import Reader, Warn
from toolchain.spec import source as sources
from toolchain.spec.environment import Environment
from toolchain.spec.lockedfile import check_package
from toolchain.spec.named import read_named
from toolchain.spec.requirements import Requirements, parse_requirement
from toolchain.spec.source import Source
from toolchain.spec.tomlorder import lock_text, project_text
from toolchain.spec.tomltext import load
from toolchain.spec.uvlock import UvLock

UV_LOCK, PYLOCK, PYPROJECT = "uv.lock", "pylock.toml", "pyproject.toml"
_HIGHEST = 12  # folders upwards that a uv workspace is looked for in


def is_existing_lock(path: str) -> bool:
    """Whether a file's name is that of another tool's lock that is read here."""
    name = posixpath.basename(path)
    return name == UV_LOCK or re.fullmatch(r"pylock(\.[^./]+)?\.toml", name) is not None


def default_file(reader: Reader, warn: Warn) -> str:
    """The lock, or the pyproject.toml, that stands for a project whose MLproject names no
    environment; empty where there is none. A uv.lock may be that of a workspace further up.

    One whose dependencies only a build knows is passed over: MLflow takes no notice of it."""
    for name in (UV_LOCK, PYLOCK):
        if reader.read(name) is not None:
            return name
    text = reader.read(PYPROJECT)
    if text is None:
        return ""
    try:
        data = load(text, PYPROJECT)
    except SpecError:
        return PYPROJECT  # whoever reads it will say what is wrong
    project = data.get("project")
    if not isinstance(project, dict):
        return ""
    lock = _workspace_lock(reader, _text(project.get("name")))
    if lock or not _is_dynamic(project):
        return lock or PYPROJECT
    warn(f"{PYPROJECT}: passed over, since its dependencies are dynamic: only a build knows them")
    return ""


def _is_dynamic(project: Mapping[str, Any]) -> bool:
    dynamic = project.get("dynamic")
    return isinstance(dynamic, list) and "dependencies" in dynamic


def _workspace_lock(reader: Reader, name: str) -> str:
    """The uv.lock above that has the project as a member."""
    for height in range(1, _HIGHEST):
        path = "../" * height + UV_LOCK
        try:
            text = reader.read(path)
            if text is None:
                continue
            found = load(text, path)
        except SpecError:  # out of the workspace
            return ""
        return path if UvLock(found, path).member(name) is not None else ""
    return ""


def read_existing_lock(path: str, reader: Reader, named_at: str, default_python: str,
                       warn: Warn) -> Environment:
    """A uv.lock or a pylock.toml. Raises SpecError."""
    wanted = Requirements(warn)
    data = _load(path, reader, named_at, wanted)
    if posixpath.basename(path) == UV_LOCK:
        beside = _beside(path, reader)
        project = _load(beside, reader, path, wanted)
        lock = UvLock(data, path)
        found: Iterable[Source] = lock.sources(project)
        whole = _at_root(path, reader, project)
        wanted.options.extra_indexes += lock.indexes([*_indexes(project), *_indexes(whole)])
    else:
        found = _pylock_sources(data, path)
    for source in found:
        if source.kind in (sources.FOLDER, sources.FILE):
            read_named(reader, f"{source.location}/{PYPROJECT}" if source.kind == sources.FOLDER
                       else f"{posixpath.dirname(source.location)}/.", f"{path}, {source.name}")
        wanted.sources.add(source)
    python = _python(reader, _text(data.get("requires-python")), default_python, path, warn)
    return Environment(kind="python_env", python=python, wanted=wanted, locked=path)


def read_pyproject(path: str, reader: Reader, named_at: str, default_python: str,
                   warn: Warn) -> Environment:
    """The `dependencies` of a pyproject.toml that has no lock. Raises SpecError."""
    wanted = Requirements(warn)
    data = _load(path, reader, named_at, wanted)
    project = data.get("project")
    if not isinstance(project, dict):
        raise SpecError("pyproject.toml has no [project] table", where=path,
                        fix="add one with `dependencies`, or name another environment file")
    _strings(project.get("dynamic"), f"{path}, project.dynamic")
    if _is_dynamic(project):
        raise SpecError("the dependencies are dynamic: only a build knows them", where=path,
                        fix="run `uv lock` and commit uv.lock, or list them in "
                            "project.dependencies")
    places = _table(data, "tool", "uv", "sources")
    for line in _strings(project.get("dependencies"), f"{path}, project.dependencies"):
        _add_dependency(line, path, reader, wanted, places, data)
    for url in _indexes(data):
        wanted.options.extra_indexes.append(url)
    python = _python(reader, _text(project.get("requires-python")), default_python, path, warn)
    return Environment(kind="python_env", python=python, wanted=wanted)


def _add_dependency(line: str, path: str, reader: Reader, wanted: Requirements,
                    places: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    where = f"{path}, project.dependencies"
    line = " ".join(line.split())
    if not line or line.startswith("-") or "--hash" in line:
        raise SpecError(f"not a requirement: {line[:60]}", where=where,
                        fix="write it as in `scipy==1.11.4` (PEP 508)")
    if sources.is_one(line):
        wanted.add_line(line, path, 1, reader)
        return
    requirement, _ = parse_requirement(line, where)
    name = re.split(r"[^a-z0-9-]", requirement, maxsplit=1)[0]
    from packaging.utils import canonicalize_name

    by_name = {canonicalize_name(key): value for key, value in places.items()}
    place = by_name.get(canonicalize_name(name))
    if isinstance(place, dict) and "index" not in place:
        wanted.add_line(_uv_source(requirement, name, place, path), path, 1, reader)
    elif isinstance(place, list):
        raise SpecError(f"tool.uv.sources has several places for {name}", where=path,
                        fix="run `uv lock` and commit uv.lock, which is then used as it stands")
    else:
        wanted.require(requirement, where)


def _uv_source(requirement: str, name: str, place: Mapping[str, Any], path: str) -> str:
    """A dependency whose place stands in tool.uv.sources, as a requirement line."""
    from packaging.requirements import Requirement

    parsed = Requirement(requirement)
    extras = f"[{','.join(sorted(parsed.extras))}]" if parsed.extras else ""
    marker = f" ; {parsed.marker}" if parsed.marker else ""
    subdirectory = _text(place.get("subdirectory"))
    tail = f"#subdirectory={subdirectory}" if subdirectory else ""
    if "git" in place:
        revision = next((_text(place[key]) for key in ("rev", "tag", "branch") if key in place), "")
        at = f"@{revision}" if revision else ""
        return f"{name}{extras} @ git+{_text(place['git']).removeprefix('git+')}{at}{tail}{marker}"
    if "url" in place:
        return f"{name}{extras} @ {_text(place['url'])}{tail}{marker}"
    if "path" in place:
        return f"{name}{extras} @ {_relative(path, _text(place['path']))}{tail}{marker}"
    raise SpecError(f"tool.uv.sources.{name} is understood only with a lock", where=path,
                    fix="run `uv lock` and commit uv.lock, which is then used as it stands")


def _relative(lock: str, text: str) -> str:
    """A path in a file, relative to the project's folder, as a requirement line has it."""
    if text.startswith("/"):
        return text
    path = posixpath.normpath(posixpath.join(posixpath.dirname(lock), text))
    return path if path.startswith(".") else f"./{path}"


def pylock_packages(data: Mapping[str, Any], path: str) -> list[dict[str, Any]]:
    """The packages of a pylock.toml. Raises SpecError unless they are well-formed."""
    if _text(data.get("lock-version")).split(".")[0] != "1":
        raise SpecError("not a pylock.toml of version 1", where=path,
                        fix="make it with a tool that writes lock-version 1.0")
    packages = _tables(data.get("packages"), f"{path}, packages")
    for number, package in enumerate(packages):
        check_package(package, f"{path}, packages[{number}]")
    return packages


def _pylock_sources(data: Mapping[str, Any], path: str) -> Iterable[Source]:
    """The packages of a pylock.toml that are of no index (PEP 751)."""
    for number, package in enumerate(pylock_packages(data, path)):
        where = f"{path}, packages[{number}]"
        name, marker = _text(package.get("name")), ""
        vcs, folder, archive = (_table(package, key) for key in ("vcs", "directory", "archive"))
        if vcs:
            if _text(vcs.get("type")) != "git":
                raise SpecError(f"version control other than git: {name}", where=where,
                                fix="lock a release, or a git repository")
            place = (_text(vcs.get("url")) if "url" in vcs
                     else f"file://{_text(vcs.get('path'))}")
            line = f"{name} @ git+{place}@{_text(vcs.get('commit-id'))}"
        elif folder:
            line = f"{name} @ {_relative(path, _text(folder.get('path')))}"
        elif archive:
            hashes = _table(archive, "hashes")
            place = _text(archive.get("url")) or _relative(path, _text(archive.get("path")))
            line = f"{name} @ {place}"
            if "sha256" in hashes:
                yield sources.read(line + marker, (_text(hashes["sha256"]).lower(),), where)
                continue
            raise SpecError(f"{name} has no sha256", where=where, fix="lock it anew")
        else:
            continue
        part = _text((vcs or folder or archive).get("subdirectory"))
        yield sources.read(line + (f"#subdirectory={part}" if part else ""), (), where)


def _python(reader: Reader, requires: str, default: str, path: str, warn: Warn) -> str:
    """The Python that `.python-version` names, else one that `requires-python` admits; empty
    where the default will do."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        allowed = SpecifierSet(requires)
    except InvalidSpecifier:
        raise SpecError(f"not a range of Python versions: {requires}", where=path,
                        fix='write it as requires-python = ">=3.10"') from None
    pinned = (reader.read(".python-version") or "").split("#")[0].split()
    if pinned and re.fullmatch(r"3\.\d+(\.\d+)?", pinned[0]):
        if _admits(allowed, pinned[0]):
            return pinned[0]
        warn(f".python-version: {pinned[0]} is not what requires-python admits: {requires}")
    if not requires or _admits(allowed, default):
        return ""
    for candidate in ("3.13", "3.12", "3.11", "3.10", "3.14", "3.9", "3.8"):
        if _admits(allowed, candidate):
            return candidate
    raise SpecError(f"no Python satisfies requires-python {requires}", where=path,
                    fix='write it as requires-python = ">=3.10"')


def _admits(allowed: Any, python: str) -> bool:
    if python.count(".") == 2:
        return python in allowed
    return any(f"{python}.{patch}" in allowed for patch in range(30))


def _load(path: str, reader: Reader, named_at: str, wanted: Requirements) -> dict[str, Any]:
    text = read_named(reader, path, named_at)
    if text is None:
        raise SpecError(f"no such environment file: {path}", where=named_at,
                        fix="make the file, or name the right one")
    data = load(text, path)
    is_project = posixpath.basename(path) == PYPROJECT
    wanted.files[path] = project_text(data) if is_project else lock_text(data)
    return data


def _beside(path: str, reader: Reader) -> str:
    """The pyproject.toml that says which member of the lock is meant: the project's own."""
    if reader.read(PYPROJECT) is not None:
        return PYPROJECT
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), PYPROJECT))


def _at_root(lock: str, reader: Reader, project: Mapping[str, Any]) -> Mapping[str, Any]:
    """The pyproject.toml beside uv.lock: of a workspace, the root's, whose indexes hold for all of
    its members. `project` where that is the same file, or there is none."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(lock), PYPROJECT))
    text = None if path == PYPROJECT else reader.read(path)
    return project if text is None else load(text, path)


def _indexes(data: Mapping[str, Any]) -> list[str]:
    """The package indexes that the project itself names for uv."""
    found = [_text(item.get("url"))
             for item in _tables(_table(data, "tool", "uv").get("index"),
                             f"{PYPROJECT}, tool.uv.index")]
    for url in found:
        sources.check_secret(url, f"{PYPROJECT}, tool.uv.index")
    return [url for url in found if "://" in url and not any(map(str.isspace, url))]


def _table(data: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    for name in names:
        found = data.get(name)
        if not isinstance(found, dict):
            return {}
        data = found
    return data


def _tables(value: Any, where: str) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise SpecError("not a list of tables", where=where, fix="make the file anew")
    return value


def _strings(value: Any, where: str) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise SpecError("not a list of texts", where=where,
                        fix='write it as in dependencies = ["scipy==1.11.4"]')
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
