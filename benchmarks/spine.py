"""The spine's speed: nothing to do, one line changed, one dependency added, a cold image.

    python -m benchmarks.spine [--keep FOLDER] [--write]

Needs docker-registry (Debian's package), a package index and a Debian mirror. Everything is done
in copies of projects/elasticnet in a temporary folder; `--keep` leaves what takes minutes to
prepare (downloads and a training) for the next time.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from benchmarks import options, table, timing, variants
from benchmarks.timing import GRAIN, Command, Times, doit, expect, say
from benchmarks.workspace import (
    PINS,
    Cache,
    copy_example,
    debs,
    python_with_doit_alone,
    registry,
    wheels,
)

PROJECT = "elasticnet"
NULL_RUNS, EDIT_RUNS, COLD_RUNS = 21, 11, 7
# Small wheels that need nothing and that the example does not have; each is added once.
FETCHED = ("tabulate", "humanize", "sortedcontainers", "toolz", "inflection", "termcolor",
           "xmltodict")
UNKNOWN = ("deepmerge", "ordered-set", "funcy", "more-itertools", "colorlog", "boltons", "parse")


class Measured:
    """One thing's times, and those of the baseline that ran in turns with it."""

    def __init__(self, bare: Command) -> None:
        self._bare = bare
        self.times, self.baseline = Times(), Times()

    def add(self, command: Command) -> str:
        """Time the command once, and the baseline before it; the command's output."""
        self.baseline.seconds.append(self._bare.run()[0])
        seconds, output = command.run()
        self.times.seconds.append(seconds)
        return output

    def row(self, what: str, *, most_seconds: float | None = None,
            most_times: float | None = None) -> table.Row:
        return table.Row(what=what, times=self.times, baseline=self.baseline,
                         most_seconds=most_seconds, most_times=most_times)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spine:
    """One run of the benchmark. `folder` is for this run, `kept` may be there from an earlier."""

    folder: Path
    kept: Path
    bare: Command

    @property
    def warm(self) -> Path:
        return self.kept / "warm"

    def variant(self, name: str) -> Path:
        """The example with one package more."""
        return self.kept / "variants" / "projects" / name

    def prepare(self) -> None:
        """Train once, which fetches every wheel; pin each small package in a copy of its own."""
        say("preparing: downloads and a training")
        copy_example(self.warm, PROJECT)
        doit(self.warm, "train", f"project={PROJECT}").run()
        workspace, cache = self.kept / "variants", self.warm / "cache"
        variants.prepare(workspace, PROJECT, {name: name for name in (*FETCHED, *UNKNOWN)}, cache)
        variants.fetch(workspace, FETCHED, cache)

    def measure(self) -> list[table.Row]:
        null, cold, edited, fetched, unknown = (Measured(self.bare) for _ in range(5))
        self.null(null)
        for number in range(COLD_RUNS):
            workspace = self.folder / f"cold-{number}"
            with registry(self.folder / "registry") as host:
                say(f"cold image {number + 1} of {COLD_RUNS}")
                self.cold(workspace, host, cold)
                if number == COLD_RUNS - 1:
                    self.edits(workspace, host, edited)
                    self.dependencies(workspace, host, FETCHED, fetched)
                    self.dependencies(workspace, host, UNKNOWN, unknown)
            shutil.rmtree(workspace)
        count = len(wheels(self.warm / "projects" / PROJECT))
        everything = Measured(self.bare)
        for part in (null, cold, edited, fetched, unknown):
            everything.baseline.seconds += part.baseline.seconds
        everything.times = everything.baseline
        return [
            everything.row("bare `doit`, one up-to-date task (the baseline)"),
            null.row(f"`doit train project={PROJECT}`, nothing to do", most_times=2),
            edited.row("one line of code changed → pushed", most_seconds=0.5),
            fetched.row("one small dependency added, its wheel in the store → pushed",
                        most_seconds=2),
            unknown.row("one small dependency added, its wheel not yet found or fetched → pushed",
                        most_seconds=2),
            cold.row(f"cold image of {count} packages, their wheels in the store → pushed",
                     most_seconds=12),
        ]

    def null(self, measured: Measured) -> None:
        time.sleep(GRAIN)
        command = doit(self.warm, "train", f"project={PROJECT}")
        command.run()
        for _ in range(NULL_RUNS):
            output = measured.add(command)
            expect(output, *(f"{stage} {PROJECT}  up to date" for stage in
                             ("parse", "resolve", "base", "layer", "push", "train")))

    def cold(self, workspace: Path, host: str, measured: Measured) -> None:
        """A build in a cache that has the downloads and nothing else, to an empty registry."""
        project = copy_example(workspace, PROJECT)
        wanted = wheels(project) | debs(workspace)
        Cache(workspace / "cache").take(sorted(wanted), Cache(self.warm / "cache"))
        output = measured.add(_push(workspace, host))
        built = re.search(r"reused 0 layers, built (\d+) ", output)
        count = int(built[1]) + 1 if built else 0
        expect(output, f"base {PROJECT}  reused 0 layers, built ", f"layer {PROJECT}  3 files (",
               f"sent {count} of {count} layers")

    def edits(self, workspace: Path, host: str, measured: Measured) -> None:
        """Edits of one line that were never seen before; the first is not counted."""
        script = workspace / "projects" / PROJECT / "train.py"
        text = script.read_text()
        for number in range(EDIT_RUNS + 1):
            say(f"edit {number} of {EDIT_RUNS}")
            script.write_text(f'{text}EDIT = "{uuid.uuid4()}"\n')
            output = (measured if number else Measured(self.bare)).add(_push(workspace, host))
            expect(output, f"base {PROJECT}  up to date", f"layer {PROJECT}  3 files (",
                   f"push {PROJECT}  sent 1 of ")
        script.write_text(text)
        _push(workspace, host).run()

    def dependencies(self, workspace: Path, host: str, names: tuple[str, ...],
                     measured: Measured) -> None:
        """Each package added to the example's own requirements and lock, then taken out again."""
        project = workspace / "projects" / PROJECT
        before = {name: (project / name).read_text() for name in PINS}
        cache, warm = Cache(workspace / "cache"), Cache(self.warm / "cache")
        for name in names:
            say(f"dependency {name}")
            new = wheels(self.variant(name)) - wheels(project)
            if names is FETCHED:
                cache.take(new, warm)
            elif any(cache.store.has(digest) for digest in new):
                raise SystemExit(f"the wheel of {name} is there already")
            for file in PINS:
                shutil.copyfile(self.variant(name) / file, project / file)
            with tempfile.TemporaryDirectory() as empty:  # what uv remembers is no help either
                output = measured.add(_push(workspace, host, uv_cache=empty))
            expect(output, " layers, built 1 (", f"layer {PROJECT}  3 files (",
                   f"push {PROJECT}  sent 2 of ")
            for file, text in before.items():
                (project / file).write_text(text)
            _push(workspace, host).run()


def _push(workspace: Path, host: str, uv_cache: str = "") -> Command:
    return doit(workspace, "push", f"project={PROJECT}", f"registry={host}",
                environment={"UV_CACHE_DIR": uv_cache} if uv_cache else {})


def _bare(folder: Path, environment: Path) -> Command:
    """doit alone, with one up-to-date task."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "source").write_text("source\n")
    (folder / "dodo.py").write_text(
        "def task_copy():\n"
        "    return {'actions': ['cp source target'], 'file_dep': ['source'],\n"
        "            'targets': ['target']}\n")
    command = doit(folder, python=python_with_doit_alone(environment))
    command.run()
    expect(command.run()[1], "-- copy")
    return command


def main() -> None:
    given = options.parser(__doc__, keeps=True).parse_args()
    with options.folders(given) as (folder, kept):
        spine = Spine(folder=folder, kept=kept, bare=_bare(folder / "bare", kept / "doit"))
        spine.prepare()
        text = table.markdown(spine.measure(), "the baseline", timing.machine())
    options.finish(given, "spine", text)


if __name__ == "__main__":
    main()
