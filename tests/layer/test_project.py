"""The project layer holds what .dockerignore leaves, as it was when it was planned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from toolchain.digest import Digest
from toolchain.errors import SpecError
from toolchain.journal import Journal
from toolchain.layer import USER_ID, Layer
from toolchain.layer.project import included, make, plan
from toolchain.spec import EntryPoint, Spec
from toolchain.store import Store
from toolchain.tree import Tree

Members = dict[str, tuple[tarfile.TarInfo, bytes]]


def _ask(question: Any, answer: Callable[[], Any]) -> Any:
    """A memo that remembers nothing."""
    return answer()


def _spec(command: str = "true", **canonical: str) -> Spec:
    return Spec(name="one", environment="python_env", python="3.11", requirements=(),
                constraints=(), hashes={}, files=canonical,
                entry_points={"main": EntryPoint(command=command, parameters={})})


def _write(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(f"content of {path}\n")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    _write(folder, "MLproject", "train.py", "data/rows.csv", "data/deep/more.csv",
           "requirements.lock")
    return folder


@pytest.fixture
def build(
    root: Path, journal: Journal, store: Store, pool: ThreadPoolExecutor,
    members: Callable[[Layer], Members],
) -> Callable[..., Members]:
    """Plans and makes the layer of `root`; its entries by path below /project."""
    def run(**canonical: str) -> Members:
        tree = Tree(root, journal)
        spec = _spec(**canonical)
        layer = make(plan(tree, spec, _ask), tree, spec, store, pool)
        found = members(layer)
        ours = {path: found.pop(path) for path in list(found) if path.startswith("opt")}
        assert list(ours) == ["opt", "opt/toolchain", "opt/toolchain/project.json"]
        assert {info.uid for info, _ in ours.values()} == {0}  # the job cannot change them
        assert Spec.from_json(json.loads(ours["opt/toolchain/project.json"][1])
                              ) == spec.for_runner()
        assert all(path == "project" or path.startswith("project/") for path in found)
        return {path.removeprefix("project/"): member for path, member in found.items()}

    return run


def _files(found: Members) -> list[str]:
    return [path for path, (info, _) in found.items() if not info.isdir()]


def test_files_are_below_project_and_belong_to_the_user(
    build: Callable[..., Members]
) -> None:
    found = build()
    assert _files(found) == ["MLproject", "data/deep/more.csv", "data/rows.csv", "train.py"]
    assert found["data/rows.csv"][1] == b"content of data/rows.csv\n"
    assert {(info.uid, info.gid) for info, _ in found.values()} == {(USER_ID, USER_ID)}
    assert found["project"][0].isdir()


def test_the_lock_stays_out(build: Callable[..., Members]) -> None:
    assert "requirements.lock" not in build()


def test_only_the_executable_bit_of_a_mode_counts(
    build: Callable[..., Members], root: Path
) -> None:
    modes = {"train.py": 0o700, "MLproject": 0o600, "data/rows.csv": 0o4777}
    for path, mode in modes.items():
        (root / path).chmod(mode)
    found = build()
    assert {path: found[path][0].mode for path in modes} == {
        "train.py": 0o755, "MLproject": 0o644, "data/rows.csv": 0o755}


def test_a_link_within_the_project_stays_a_link(
    build: Callable[..., Members], root: Path
) -> None:
    (root / "latest.csv").symlink_to("data/rows.csv")
    (root / "data/up").symlink_to("../train.py")
    found = build()
    assert {path: info.linkname for path, (info, _) in found.items() if info.issym()} == {
        "latest.csv": "data/rows.csv", "data/up": "../train.py"}


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "data/../../outside"])
def test_a_link_out_of_the_project_is_refused(
    build: Callable[..., Members], root: Path, target: str
) -> None:
    (root / "evil").symlink_to(target)
    with pytest.raises(SpecError, match="link leaves the project: evil"):
        build()


def test_canonical_text_takes_the_place_of_the_original(
    build: Callable[..., Members], root: Path, journal: Journal
) -> None:
    (root / "MLproject").chmod(0o755)
    found = build(MLproject="name: canonical\n")
    assert found["MLproject"][1] == b"name: canonical\n"
    assert found["MLproject"][0].mode == 0o644
    before = plan(Tree(root, journal), _spec(MLproject="name: canonical\n"), _ask)
    (root / "MLproject").write_text("# a comment\nname:    canonical\n")
    assert plan(Tree(root, journal), _spec(MLproject="name: canonical\n"), _ask) == before


def test_names_of_all_kinds_survive(build: Callable[..., Members], root: Path) -> None:
    odd = ["data/größe 🐍.csv", "data/with space", "data/-dash", "data/" + "n" * 200,
           "/".join(["folder"] * 40) + "/leaf"]
    _write(root, *odd)
    found = build()
    assert set(odd) <= set(found)
    assert found[odd[0]][1].decode() == f"content of {odd[0]}\n"


def test_the_plan_decides_the_bytes(
    build: Callable[..., Members], root: Path, journal: Journal, store: Store,
    pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    copy = _write(tmp_path / "copy", "train.py", "requirements.lock", "data/deep/more.csv",
                  "MLproject", "data/rows.csv")
    layers = []
    for folder in (root, copy):
        tree = Tree(folder, journal)
        layers.append(make(plan(tree, _spec(), _ask), tree, _spec(), store, pool))
    assert layers[0] == layers[1]


_TREE = ("Dockerfile", "a.log", "b.log", "ab.txt", "acb.txt", "docs/a.log", "docs/deep/b.log",
         "docs/deep/keep.md", "docs/keep.md", "data", "src/data/x", "tmp1/x", "src/tmp2/x",
         "star*x", "starzx", "#hash", "file with space")


@pytest.mark.parametrize("pattern", ["[z-a]", "data/[z-a]*.csv", "!keep[^]"])
def test_a_pattern_that_is_none_is_named_with_its_line(
    root: Path, journal: Journal, pattern: str
) -> None:
    (root / ".dockerignore").write_text(f"# a comment\n\n*.log\n{pattern}\n")
    with pytest.raises(SpecError, match="not a pattern") as caught:
        included(Tree(root, journal), _ask)
    assert pattern in caught.value.what
    assert caught.value.where == f"{root / '.dockerignore'}:4"
    assert caught.value.fix


@pytest.mark.parametrize(("patterns", "excluded"), [
    ("*.log", {"a.log", "b.log"}),
    ("**/*.log", {"a.log", "b.log", "docs/a.log", "docs/deep/b.log"}),
    ("docs", {"docs/a.log", "docs/deep/b.log", "docs/deep/keep.md", "docs/keep.md"}),
    ("docs/", {"docs/a.log", "docs/deep/b.log", "docs/deep/keep.md", "docs/keep.md"}),
    ("/docs", {"docs/a.log", "docs/deep/b.log", "docs/deep/keep.md", "docs/keep.md"}),
    ("./docs/deep", {"docs/deep/b.log", "docs/deep/keep.md"}),
    ("docs/../data", {"data"}),
    ("data", {"data"}),
    ("**/data", {"data", "src/data/x"}),
    ("docs/**", {"docs/a.log", "docs/deep/b.log", "docs/deep/keep.md", "docs/keep.md"}),
    ("docs/**/b.log", {"docs/deep/b.log"}),
    ("docs/**/a.log", {"docs/a.log"}),
    ("*/*.log", {"docs/a.log"}),
    ("*/tmp*", {"src/tmp2/x"}),
    ("a?b.txt", {"acb.txt"}),
    ("[ab].log", {"a.log", "b.log"}),
    ("[^a].log", {"b.log"}),
    ("star\\*x", {"star*x"}),
    ("docs\n!docs/keep.md", {"docs/a.log", "docs/deep/b.log", "docs/deep/keep.md"}),
    ("docs\n!docs/deep", {"docs/a.log", "docs/keep.md"}),
    ("!docs/keep.md\ndocs", {"docs/a.log", "docs/deep/b.log", "docs/deep/keep.md",
                             "docs/keep.md"}),
    ("**/*.md\n!docs/keep.md", {"docs/deep/keep.md"}),
    ("**/*.md\n!**/keep.md\ndocs/deep/*.md", {"docs/deep/keep.md"}),
    ("*\n!docs\n!ab.txt", set(_TREE) - {"docs/a.log", "docs/deep/b.log", "docs/deep/keep.md",
                                        "docs/keep.md", "ab.txt"}),
    ("**\n!a.log", set(_TREE) - {"a.log"}),
    ("  a.log  \r\n\r\nb.log\r\n", {"a.log", "b.log"}),
    ("# a.log\n#b.log\n", set()),
    ("a.log\n\n\n! a.log", set()),
    ("file with space", {"file with space"}),
    ("\ufeffa.log", {"a.log"}),
    ("A.LOG", set()),
    ("", set()),
])
def test_dockerignore_means_what_docker_says(
    tmp_path: Path, journal: Journal, patterns: str, excluded: set[str]
) -> None:
    root = _write(tmp_path / "project", *_TREE)
    (root / ".dockerignore").write_bytes(patterns.encode())
    found = set(included(Tree(root, journal), _ask)) - {".dockerignore"}
    assert set(_TREE) - found == excluded


def test_a_memo_is_asked_once_for_the_same_rules_and_paths(root: Path, journal: Journal) -> None:
    (root / ".dockerignore").write_text("data\n")
    known: dict[Digest, Any] = {}
    asked: list[Any] = []

    def memo(question: Any, answer: Callable[[], Any]) -> Any:
        key = Digest.of_json(question)
        if key not in known:
            asked.append(question)
            known[key] = answer()
        return known[key]

    first = included(Tree(root, journal), memo)
    assert included(Tree(root, journal), memo) == first
    assert len(asked) == 1
    _write(root, "data/new.csv", "new.py")
    assert included(Tree(root, journal), memo) == sorted([*first, "new.py"])
    assert len(asked) == 2


def _replace(root: Path) -> None:
    _write(root, "other").joinpath("other").rename(root / "train.py")


def _same_size_and_times(root: Path) -> None:
    before = (root / "train.py").stat()
    (root / "train.py").write_text("content of other.py"[: before.st_size].ljust(before.st_size))
    os.utime(root / "train.py", ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [
    lambda root: (root / "train.py").write_text("something else"),
    lambda root: (root / "train.py").unlink(), _replace, _same_size_and_times,
], ids=["edited", "deleted", "replaced", "edited to the same size and time"])
def test_a_file_that_changes_between_plan_and_make_is_an_error(
    root: Path, journal: Journal, store: Store, pool: ThreadPoolExecutor, tmp_path: Path,
    change: Callable[[Path], object]
) -> None:
    tree = Tree(root, journal)
    planned = plan(tree, _spec(), _ask)
    change(root)
    with pytest.raises(SpecError, match=r"train\.py"):
        make(planned, tree, _spec(), store, pool)
    assert list((tmp_path / "cache/blobs/sha256").iterdir()) == []


_FULL = """
import os, resource, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from toolchain.errors import ToolchainError
from toolchain.journal import Journal
from toolchain.layer.project import make, plan
from toolchain.spec import Spec
from toolchain.store import Store
from toolchain.tree import Tree

root, cache = Path(sys.argv[1]), Path(sys.argv[2])
journal = Journal(cache)
store, tree = Store(cache / "blobs", cache / "quarantine", journal), Tree(root, journal)
spec = Spec(name="one", environment="", python="", requirements=(), constraints=(), hashes={},
            entry_points={}, files={})
planned = plan(tree, spec, lambda question, answer: answer())
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))  # the disk is full after this
try:
    with ThreadPoolExecutor(2) as pool:
        make(planned, tree, spec, store, pool)
except ToolchainError as error:
    print(type(error).__name__, error)
"""


def test_a_full_disk_is_the_caches_trouble_not_the_projects(root: Path, tmp_path: Path) -> None:
    (root / "noise.bin").write_bytes(os.urandom(80 << 20))
    done = subprocess.run([sys.executable, "-c", _FULL, str(root), str(tmp_path / "cache")],
                          capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.startswith("StoreError the cache cannot be used"), done
    assert "noise.bin" not in done.stdout
    assert list((tmp_path / "cache/blobs").iterdir()) == []


def test_a_plan_for_other_content_is_not_carried_out(
    root: Path, journal: Journal, store: Store, pool: ThreadPoolExecutor
) -> None:
    planned = plan(Tree(root, journal), _spec(), _ask)
    (root / "train.py").write_text("something else")
    with pytest.raises(SpecError, match="changed"):
        make(planned, Tree(root, journal), _spec(), store, pool)


def test_the_plan_moves_with_the_entry_points_and_not_with_requirements(
    root: Path, journal: Journal
) -> None:
    tree = Tree(root, journal)
    one = plan(tree, _spec(), _ask)
    assert plan(tree, replace(_spec(), requirements=("alpha",), python="3.13"), _ask) == one
    assert plan(tree, _spec("false"), _ask) != one


def test_the_bases_lock_stays_out_of_a_workspace_of_one_project(
    root: Path, build: Callable[..., Members]
) -> None:
    _write(root, "base.lock", "data/base.lock")
    assert "base.lock" not in build()
    assert "data/base.lock" in build()
