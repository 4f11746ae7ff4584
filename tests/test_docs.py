"""The documentation is true: what it shows is run, what it lists is what there is.

Code blocks say by their language what is done with them: `sh` holds commands, `console` commands
with their output, `toml`, `yaml`, `python` and `json` are parsed. A block that is a file begins
with its path as a comment. Commands run in small workspaces that have the projects that the pages
speak of.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.debs import Mirror
from tests.support.monorepo import STAGES, TRAIN, Monorepo
from tests.support.registry import RegistryServer
from tests.support.services import may_lack
from toolchain.config import CALL, PROJECT, WORKSPACE, Config, read_settings, reference
from toolchain.spec.mlproject import parse

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "CHANGELOG.md", *sorted(
    path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md"))]
LANGUAGES = {"sh", "console", "toml", "yaml", "python", "json", "text"}
COMMANDS = {"explain", "sbom", "load", "export", "sweep", "best", "prune"}
COMMANDS_OF_DOIT = {"list", "info", "clean", "forget", "help"}

# Pages whose commands are run, in this order, and the workspace that each begins with. What a page
# shows in a `console` block depends on what was run before it.
RUN = {
    "README.md": "examples", "docs/configuration.md": "examples",
    "docs/guides/run-the-image.md": "examples", "docs/guides/from-mlflow-run.md": "examples",
    "docs/guides/from-fuseml.md": "examples", "docs/guides/from-dvc.md": "examples",
    "docs/guides/ci.md": "examples",
    "docs/quickstart.md": "examples again",
}

# What a sweep looks at.
LOG_RMSE = """
import sqlite3
with sqlite3.connect(os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///"),
                     timeout=60) as connection:
    for table in ("metrics", "latest_metrics"):
        connection.execute(f"insert into {table} (key, value, timestamp, run_uuid, step, is_nan) "
                           "values ('rmse', 1.5, 1, ?, 0, 0)", (os.environ["MLFLOW_RUN_ID"],))
"""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page. `line` is that of its first line."""

    page: str
    line: int
    language: str
    text: str

    @property
    def file(self) -> str:
        """The path that the block's first line names, if it is a file."""
        match = re.match(r"# ([\w./-]+)\n", self.text)
        return match[1] if match else ""

    @property
    def content(self) -> str:
        return self.text.partition("\n")[2] if self.file else self.text

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> Iterator[Block]:
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    start, indent, language = 0, 0, ""
    for number, line in enumerate(lines):
        fence = re.match(r"( *)```(\w*)$", line)
        if fence is None:
            continue
        if start:
            text = "".join(f"{row[indent:]}\n" for row in lines[start:number])
            yield Block(page, start + 1, language, text)
            start = 0
        else:
            start, indent, language = number + 1, len(fence[1]), fence[2]
    assert not start, f"{page}: a block is not closed"


BLOCKS = [block for page in PAGES for block in blocks(page)]


def _is(language: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "block", [block for block in BLOCKS if block.language == language], ids=str)


# What is written parses


def test_every_block_says_what_it_is() -> None:
    assert {str(block): block.language for block in BLOCKS
            if block.language not in LANGUAGES} == {}


@_is("toml")
def test_settings_are_known_where_they_stand(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text(block.text)
    values = read_settings(path)
    assert values
    scope = PROJECT if block.file.startswith("projects/") else WORKSPACE
    Config().given(values, scope=scope, where=str(block))


@_is("python")
def test_python_parses(block: Block) -> None:
    ast.parse(block.text)


@_is("json")
def test_json_parses(block: Block) -> None:
    json.loads(block.text)


class _NoFiles:
    def __init__(self, path: str, text: str) -> None:
        self._files = {path: text}

    def read(self, path: str) -> str | None:
        return self._files.get(path)


@_is("yaml")
def test_yaml_parses_and_projects_are_valid(block: Block) -> None:
    assert yaml.safe_load(block.text)
    if block.file.endswith("MLproject"):
        warnings: list[str] = []
        spec = parse(block.file, "folder", _NoFiles(block.file, block.text), "3.11",
                     warnings.append)
        assert spec.entry_points
        assert warnings == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_the_text_are_known(page: str) -> None:
    settings = {name for name, *_ in reference()} | {"project"}
    text = re.sub(r"^ *```.*?^ *```$", "", (ROOT / page).read_text(encoding="utf-8"),
                  flags=re.DOTALL | re.MULTILINE)
    for code in re.findall(r"`(doit [^`]+)`", text):
        words = shlex.split(re.sub(r" -\w \d+| --?\w+", "", code))[1:]
        for word in words:
            name, equals, _ = word.partition("=")
            if equals:
                assert name in settings, f"{page}: {code}"
            elif word.isupper() or ":" in word or "…" in word:
                assert re.match(r"[A-Za-z]+(:[\w]+)?", word), f"{page}: {code}"
            else:
                assert word in {*STAGES, *COMMANDS, *COMMANDS_OF_DOIT}, f"{page}: {code}"


# What is listed is what there is


def test_configuration_lists_every_setting() -> None:
    def shown(default: object) -> str:
        if isinstance(default, bool):
            return "yes" if default else "no"
        return f"`{default}`" if default else "empty"

    expected = ["| setting | default | given in | what it is |", "| --- | --- | --- | --- |"] + [
        f"| `{name}` | {shown(default)} | {scope} | {doc} |"
        for name, default, scope, doc in reference()
    ]
    text = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    table = text.partition("## Settings\n")[2].partition("\nNotes:")[0]
    assert [line for line in table.splitlines() if line.startswith("|")] == expected
    assert {scope for _, _, scope, _ in reference()} <= {WORKSPACE, PROJECT, CALL}


def test_the_tree_in_the_readme_is_the_repository() -> None:
    (tree,) = [block.text for block in blocks("README.md") if block.language == "text"]
    listed: set[str] = set()
    folders: list[str] = []
    for line in tree.splitlines():
        indent, name = re.match(r"( *)(\S+)", line).groups()  # type: ignore[union-attr]
        folders = [*folders[: len(indent) // 2], name]
        listed.add("".join(folders))
    listed -= {"cache/", "benchmarks/"}  # made when they are used
    assert [path for path in sorted(listed) if not (ROOT / path).exists()] == []
    package = {f"toolchain/{path.name}{'/' if path.is_dir() else ''}"
               for path in (ROOT / "toolchain").iterdir()
               if path.name not in ("__init__.py", "__pycache__")}
    examples = {f"projects/{path.parent.name}/" for path in ROOT.glob("projects/*/MLproject")}
    assert sorted((package | examples) - listed) == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = re.sub(r"^ *```.*?^ *```$", "", (ROOT / page).read_text(encoding="utf-8"),
                  flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in _anchors(path), f"{page}: {target}"


def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_decision_has_a_number_of_its_own() -> None:
    pages = sorted((ROOT / "docs/decisions").glob("*.md"))
    numbers = [page.name[:4] for page in pages]
    assert numbers == [f"{number:04}" for number in range(1, len(pages) + 1)]
    for page in pages:
        assert page.read_text(encoding="utf-8").startswith(f"# {page.name[:4]}: ")


# What is shown is run


class Workspaces:
    """Workspaces by name, made when a page first needs them."""

    def __init__(self, folder: Path, mirror: Mirror, wheels: Path, empty_store: Path) -> None:
        self._folder = folder
        self._mirror = mirror
        self._wheels = wheels
        self._empty_store = empty_store
        self._made: dict[str, Monorepo] = {}

    def __getitem__(self, name: str) -> Monorepo:
        if name not in self._made:
            repo = Monorepo(self._folder / name.replace(" ", "-"), self._mirror, self._wheels)
            shutil.copy(self._empty_store, repo.database)
            if name == "own":
                self._write_own(repo)
            else:
                self._add_examples(repo)
            self._made[name] = repo
        return self._made[name]

    def _add_examples(self, repo: Monorepo) -> None:
        """The example projects with tiny packages; their locks are there where they are here."""
        packages = {"elasticnet": "alpha\n", "digits": "alpha\ngamma\n",
                    "boosting": "alpha\nbeta\n"}
        locked = []
        for name, requirements in packages.items():
            source = ROOT / "projects" / name
            files = {"train.py": f"{TRAIN}# head(3)\n"}
            if name == "digits":
                lines = "".join(f"      - {line}\n" for line in requirements.split())
                text = (source / "conda.yaml").read_text()
                files["conda.yaml"] = text.partition("  - pip:\n")[0] + f"  - pip:\n{lines}"
            if name == "elasticnet":
                files["train.py"] += LOG_RMSE
                files["sweep.yaml"] = (source / "sweep.yaml").read_text()
            if name == "boosting":
                files["python_env.yaml"] = (source / "python_env.yaml").read_text()
            repo.add(name, requirements=requirements, files=files,
                     mlproject=(source / "MLproject").read_text())
            if (source / "requirements.lock").exists():
                locked.append(name)
        repo.doit("resolve", f"project={','.join(locked)}")
        shutil.rmtree(repo.folder / "cache")

    def _write_own(self, repo: Monorepo) -> None:
        """The files that the quickstart tells to make, but for packages that are not tiny."""
        mirror = (repo.folder / "pyproject.toml").read_text().partition("\n")[2]
        for block in blocks("docs/quickstart.md"):
            if block.file:
                path = repo.folder / block.file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.content)
        settings = repo.folder / "pyproject.toml"
        settings.write_text(settings.read_text() + mirror)
        folder = repo.folder / "projects/churn"
        (folder / "requirements.txt").write_text("alpha\n")
        (folder / "train.py").write_text(TRAIN)


@pytest.fixture(scope="module")
def workspaces(tmp_path_factory: pytest.TempPathFactory, mirror: Mirror, wheels: Path,
               empty_store: Path) -> Workspaces:
    return Workspaces(tmp_path_factory.mktemp("docs"), mirror, wheels, empty_store)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a registry, or nothing where there is none on this machine."""
    if shutil.which("docker-registry") is None:
        may_lack("no docker-registry on this machine")
        yield ""
        return
    with RegistryServer(tmp_path_factory.mktemp("registry")) as server:
        yield server.host


@pytest.mark.parametrize("page", RUN)
def test_commands_do_what_the_page_says(page: str, workspaces: Workspaces, registry: str) -> None:
    for block in blocks(page):
        for command, output in _commands(block):
            name = "own" if "churn" in command else RUN[page]
            said = _run(command, workspaces[name], registry)
            if output:
                assert _shape(said) == _shape(output), f"{block}: {command}\n{said}"


def _commands(block: Block) -> Iterator[tuple[str, str]]:
    """Each command of a block that can be run here, and the output that is shown for it."""
    if block.language == "sh":
        for line in block.text.splitlines():
            for part in line.split("&&"):
                command = shlex.join(shlex.split(part, comments=True))
                if _is_run(command):
                    yield command, ""
    if block.language == "console":
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            if _is_run(command):
                yield command, output


def _is_run(command: str) -> bool:
    return command.split(" ")[0] in ("doit", "sed")


def _run(command: str, repo: Monorepo, registry: str) -> str:
    program, *arguments = shlex.split(command)
    if program == "sed":
        subprocess.run([program, *arguments], cwd=repo.folder, check=True)
        return ""
    if any("registry=" in argument for argument in arguments):
        if not registry:
            return ""
        arguments = [argument.replace("localhost:5000", registry) for argument in arguments]
    if arguments[:1] == ["load"]:
        return _load(repo, arguments)
    return repo.doit(*arguments)


def _load(repo: Monorepo, arguments: list[str]) -> str:
    """Into the engine of this machine, if there is one, under names that nobody else has."""
    import docker

    name = f"toolchain-test/{uuid.uuid4().hex[:12]}"
    try:
        client = docker.from_env()
    except docker.errors.DockerException as error:
        may_lack(f"no Docker engine: {error}")
        return ""
    try:
        return repo.doit(*arguments, f"repository={name}").replace(name, "mlflow/trainer")
    finally:
        for image in client.images.list(name):
            client.images.remove(str(image.id), force=True)


def _shape(output: str) -> list[str]:
    """What a session says without numbers, names of content and the entry point's own words."""
    lines = []
    projects = r"(elasticnet|digits|boosting|churn)"
    for line in output.splitlines():
        if not re.match(rf"({'|'.join(STAGES)}) {projects}  |{projects}: ", line):
            continue
        line = re.sub(r"sha256:[0-9a-f]{64}|\b[0-9a-f]{32}\b", "ID", line)
        line = re.sub(r"(models|runs):/(m-)?ID(/model)?", "MODEL", line)
        line = re.sub(r"  \w+=-?[\d.]+", "", line)
        line = re.sub(r"\b[\d.]+ (GB|MB|kB|B|s)\b", r"N", line)
        line = re.sub(r"\b(layer|package|file|requirement|entry point)s?\b", r"\1", line)
        lines.append(re.sub(r"\b\d+(?= )", "N", line))
    return lines


# Receipts

# Mappings whose keys are names of the project's own.
_OPEN = {"params", "metrics", "files", "hashes", "entry_points", "parameters", "packages"}


@pytest.mark.parametrize("stage", STAGES)
def test_receipts_have_the_fields_that_are_documented(stage: str, workspaces: Workspaces) -> None:
    text = (ROOT / "docs/receipts.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {stage}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert section is not None
    example = re.search(r"```json\n(.*?)```", section[1], re.DOTALL)
    assert example is not None
    repo = workspaces["examples again"]
    if not (repo.folder / "cache/out/elasticnet/register.json").exists():
        repo.doit("register", "project=elasticnet")
    shown, real = json.loads(example[1]), repo.receipt("elasticnet", stage)
    _agree(shown, real, stage)
    for field in shown:  # each is explained in a table
        assert field == "layers" or re.search(rf"^\|[^|]*`{field}\b", text, re.MULTILINE), field


def _agree(shown: Any, real: Any, place: str) -> None:
    """Both have the same fields of the same types; of many alike, the first stands for all."""
    if place == "resolve.base.bytecode" and real is None:
        return  # as documented: nothing is compiled in a test's workspace
    assert type(shown) is type(real), place
    if isinstance(shown, dict):
        if place.rpartition(".")[2] in _OPEN:
            shown, real = list(shown.values()), list(real.values())
        else:
            assert sorted(shown) == sorted(real), place
            for name in shown:
                _agree(shown[name], real[name], f"{place}.{name}")
    if isinstance(shown, list) and shown and real:
        _agree(shown[0], real[0], f"{place}[]")
