"""This package against `docker build`, BuildKit and buildah: from one lock to a pushed image.

    python -m benchmarks.images [--keep FOLDER] [--docker PROGRAM] [--only NAME,…] [--write]

Needs a registry (Debian's docker-registry, or the image registry:2 in a Docker engine), a package
index and a Debian mirror; for the others a Docker engine on this machine (DOCKER_HOST is
respected), and buildah and root. What is absent is left out with its reason. `podman build` is
buildah's code. `--keep` leaves downloads for the next time. All of it takes a bit more than an
hour; after Ctrl-C the table has what was measured until then.
"""

from __future__ import annotations

import re
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import comparison, options, timing, variants
from benchmarks.builders import Buildah, Builder, Docker, NotMeasured, Surroundings, Toolchain
from benchmarks.comparison import Scenario
from benchmarks.timing import GRAIN, Command, Times, doit, expect, say
from benchmarks.wheelhouse import wheelhouse
from benchmarks.workspace import PINS, Cache, copy_example, registry, wheels
from toolchain.digest import Digest

PROJECT = "elasticnet"
ADDED = {"tabulate": "tabulate", "humanize": "humanize", "sortedcontainers": "sortedcontainers",
         "toolz": "toolz", "inflection": "inflection"}
UPGRADED = ("idna", "certifi")
TEN = (PROJECT, "digits", "boosting", *ADDED, *(f"other-{name}" for name in UPGRADED))
_BASE = "pip"
_AFTER = {3: Scenario.THREE, len(TEN): Scenario.TEN}

COLD = Scenario.COLD
NULL_RUNS, EDIT_RUNS, DEPENDENCY_RUNS = 7, 5, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """One run of the benchmark. `kept` holds what may be there from an earlier one."""

    folder: Path
    kept: Path
    times: dict[str, dict[Scenario, Times]] = field(default_factory=dict)
    stored: dict[Scenario, dict[str, int]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def cache(self) -> Path:
        return self.kept / "cache"

    def project(self, name: str) -> Path:
        return self.kept / "images" / "projects" / name

    def prepare(self) -> None:
        """Pin and download, and an image that has pip for the others to begin with."""
        say("preparing: downloads")
        workspace = self.kept / "images"
        example = copy_example(workspace, PROJECT)
        for name in ("digits", "boosting"):
            copy_example(workspace, name)
        lock = (example / "requirements.lock").read_text()
        older = {f"other-{name}": f"{name}!={_pinned(lock, name)}" for name in UPGRADED}
        variants.prepare(workspace, PROJECT, {**ADDED, **older}, self.cache)
        variants.fetch(workspace, TEN, self.cache)
        pip = self.project(_BASE)
        pip.mkdir(exist_ok=True)
        (pip / "MLproject").write_text(f"name: {_BASE}\nentry_points:\n  main:\n    command: pip\n")
        (pip / "requirements.txt").write_text("pip\n")

    @property
    def files(self) -> set[Digest]:
        return set().union(*(wheels(self.project(name)) for name in TEN))

    @contextmanager
    def session(self, builder: Builder, projects: tuple[str, ...]) -> Iterator[Surroundings]:
        """An empty registry but for the base, and a builder at its beginning."""
        with tempfile.TemporaryDirectory(dir=self.folder) as name, ExitStack() as stack:
            folder = Path(name)
            for project in projects:
                shutil.copytree(self.project(project), folder / "projects" / project)
            host = stack.enter_context(registry(folder / "registry"))
            _, output = doit(self.kept / "images", "push", f"project={_BASE}", f"registry={host}",
                             f"cache={self.cache}", "repository=bench/base").run()
            found = re.search(rf"{re.escape(host)}/bench/base@sha256:[0-9a-f]{{64}}", output)
            if found is None:
                raise SystemExit(f"the base was not pushed:\n{output}")
            served = wheelhouse(folder / "wheelhouse", Cache(self.cache), self.files)
            around = Surroundings(folder=folder, host=host, base=found[0],
                                  wheelhouse=stack.enter_context(served))
            try:
                builder.start(around, self.files)
                yield around
            finally:
                builder.end()

    def take(self, builder: Builder, scenario: Scenario, command: Command, *texts: str) -> None:
        seconds, output = command.run()
        if builder.name == Toolchain.name:
            expect(output, *texts)
        say(f"{builder.name}: {scenario.value}: {seconds:.2f} s")
        times = self.times.setdefault(builder.name, {})
        times.setdefault(scenario, Times()).seconds.append(seconds)

    def one_project(self, builder: Builder, *, dependencies: int) -> None:
        """Every scenario of one project, in the order in which they come in a project's life."""
        with self.session(builder, (PROJECT,)) as around:
            def push(*, bytecode: bool = True) -> Command:
                return builder.push(PROJECT, bytecode=bytecode)

            self.take(builder, COLD, push(), " layers, built ")
            self.take(builder, Scenario.PLAIN, push(bytecode=False), "reused ")
            push().run()
            self._edits(builder, around)
            for scenario, names in ((Scenario.ADDED, [*ADDED]),
                                    (Scenario.UPGRADED, [f"other-{name}" for name in UPGRADED])):
                for name in names[:dependencies]:
                    with self._pins(around, name):
                        self.take(builder, scenario, push(), " layers, built 1 (", "sent ")
                    push().run()
            try:
                builder.forget()
            except NotMeasured as reason:
                self.reasons[f"{builder.name}, {Scenario.SECOND.value}"] = str(reason)
            else:
                self.take(builder, Scenario.SECOND, push())

    def _edits(self, builder: Builder, around: Surroundings) -> None:
        """Nothing changed, then edits of one line that were never seen before."""
        time.sleep(GRAIN)
        builder.push(PROJECT).run()
        for _ in range(NULL_RUNS):
            self.take(builder, Scenario.NULL, builder.push(PROJECT),
                      f"push {PROJECT}  up to date")
        script = around.project(PROJECT) / "train.py"
        text = script.read_text()
        for _ in range(EDIT_RUNS):
            script.write_text(f'{text}EDIT = "{uuid.uuid4()}"\n')
            self.take(builder, Scenario.EDIT, builder.push(PROJECT), "sent 1 of ")
        script.write_text(text)
        builder.push(PROJECT).run()

    @contextmanager
    def _pins(self, around: Surroundings, name: str) -> Iterator[None]:
        """The project with a variant's requirements and lock, as after a `git pull`."""
        project = around.project(PROJECT)
        before = {file: (project / file).read_text() for file in PINS}
        for file in PINS:
            shutil.copyfile(self.project(name) / file, project / file)
        yield
        for file, text in before.items():
            (project / file).write_text(text)

    def many_projects(self, builder: Builder, most: int) -> None:
        """Projects one after the other, and what the registry then holds besides the base: after
        the third, and after the tenth if `most` is as many."""
        with self.session(builder, TEN[:most]) as around:
            blobs = around.folder / "registry" / "data"
            before, seconds = _bytes(blobs), 0.0
            for number, project in enumerate(TEN[:most], 1):
                took, _ = builder.push(project).run()
                seconds += took
                say(f"{builder.name}: {project}: {took:.2f} s")
                if scenario := _AFTER.get(number):
                    times = self.times.setdefault(builder.name, {})
                    times.setdefault(scenario, Times()).seconds.append(seconds)
                    self.stored.setdefault(scenario, {})[builder.name] = _bytes(blobs) - before

    def measure(self, others: list[Builder], ten: list[str]) -> None:
        """This package before each of the others, so that a slow hour slows both."""
        ours = Toolchain(self.cache)
        for other in others:
            self.one_project(ours, dependencies=DEPENDENCY_RUNS)
            self.one_project(other, dependencies=1)
            most = len(TEN) if other.name in ten or ten == ["all"] else 3
            self.many_projects(ours, most)
            self.many_projects(other, most)
        self.one_project(ours, dependencies=DEPENDENCY_RUNS)


def _pinned(lock: str, name: str) -> str:
    found = re.search(rf"(?m)^{re.escape(name)}==(\S+)", lock)
    if found is None:
        raise SystemExit(f"the lock has no {name}")
    return found[1]


def _bytes(folder: Path) -> int:
    """The blobs that a registry stores, each counted once."""
    return sum(path.stat().st_size for path in folder.rglob("blobs/**/data"))


def main() -> None:
    parser = options.parser(__doc__, keeps=True)
    parser.add_argument("--docker", default="docker", help="program that talks to the engine")
    parser.add_argument("--only", default="", help="others to compare with, by name")
    parser.add_argument("--ten", default="docker build",
                        help="which of them build ten projects and not three, or `all` "
                             "(twelve minutes each instead of four)")
    parser.add_argument("--prune", action="store_true",
                        help="allow emptying the engine's build cache")
    given = parser.parse_args()
    others: list[Builder] = [
        Docker(given.docker, buildkit=False, may_prune=given.prune),
        Docker(given.docker, buildkit=True, may_prune=given.prune), Buildah(),
    ]
    for number in (signal.SIGINT, signal.SIGTERM):  # either must leave nothing mounted or tagged
        signal.signal(number, signal.default_int_handler)
    with options.folders(given) as (folder, kept):
        images = Images(folder=folder, kept=kept)
        present = []
        for other in others:
            wanted = not given.only or other.name in given.only.split(",")
            reason = other.absent() if wanted else ""
            if reason:
                images.reasons[other.name] = reason
                say(f"{other.name} is left out: {reason}")
            elif wanted:
                present.append(other)
        images.prepare()
        try:
            images.measure(present, given.ten.split(","))
        except KeyboardInterrupt:
            images.reasons["the rest"] = "the benchmark was interrupted"
        text = comparison.markdown(images.times, images.stored, images.reasons, timing.machine())
    options.finish(given, "images", text)


if __name__ == "__main__":
    main()
