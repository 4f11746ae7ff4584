"""One project through its stages: what each stage's plan, make and check are given.

A plan reads values of earlier stages that are on record; if one is not, the stage cannot be
planned yet (`NotYet`). Nothing here is slow unless a stage is really made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from toolchain import image, layer, lock, model, push, run
from toolchain.config import Config
from toolchain.digest import Digest
from toolchain.errors import SpecError
from toolchain.journal import Journal
from toolchain.lock import base as base_lock
from toolchain.lock import replace_text
from toolchain.model import Models
from toolchain.push import Registry
from toolchain.run import Engine, Tracker
from toolchain.spec import Spec
from toolchain.spec.command import Call, call, parse_params
from toolchain.spec.reader import TreeReader
from toolchain.store import Store
from toolchain.trace import Trace
from toolchain.tree import Tree, content
from toolchain.workspace import Project, Workspace

USER = str(layer.USER_ID)


class NotYet(Exception):
    """A stage cannot be planned before an earlier one is made."""


class Tracking(Tracker, Models, Protocol):
    """An MLflow server is both."""


class Tools(Protocol):
    """The adapters, made when they are first asked for. Types are those of the stages."""

    def resolver(self) -> lock.Resolver: ...
    def archive(self) -> base_lock.Archive: ...
    def debs(self) -> layer.DebSource: ...
    def wheels(self) -> layer.WheelSource: ...
    def registry(self, config: Config) -> Registry: ...
    def registry_name(self, config: Config) -> str: ...
    def engine(self, config: Config) -> Engine: ...
    def tracking(self, config: Config) -> Tracking: ...
    def tracking_identity(self, config: Config) -> str: ...
    def experiment(self, config: Config) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """What all projects of one call share."""

    workspace: Workspace
    journal: Journal
    store: Store
    trace: Trace
    tools: Tools
    progress: Callable[[str], Any]  # a context manager that shows progress under a title
    say: Callable[[str], None]
    pinned: set[Digest] = field(default_factory=set)  # suites that upgrade=1 moved in this call


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a stage made: its value as JSON and a few words for people."""

    value: Any
    words: str


class Chain:
    """One project in one call."""

    def __init__(self, shop: Shop, project: Project, config: Config) -> None:
        self.shop = shop
        self.project = project
        self.config = config
        self._known: dict[str, Any] = {}

    @property
    def name(self) -> str:
        return self.project.name

    @property
    def folder(self) -> Path:
        return self.shop.workspace.root / self.project.folder

    @cached_property
    def tree(self) -> Tree:
        return Tree(self.folder, self.shop.journal)

    def value(self, stage: str, plan: Callable[[], Any]) -> Any:
        """The stage's value on record for its present plan. Raises NotYet."""
        if stage not in self._known:
            value = self.shop.trace.get(stage, Digest.of_json(plan()))
            if value is None:
                raise NotYet(stage)
            self._known[stage] = value
        return self._known[stage]

    def forget(self) -> None:
        """Something was made: values may have changed."""
        self._known.clear()

    # parse

    def plan_parse(self) -> Any:
        """The files that decide the spec. Which they are is known from the last time, or found
        by reading."""
        trace = self.shop.trace
        before = trace.current(self.name, "parse")
        old = trace.plan("parse", before) if before else None
        if old is not None:
            reader = TreeReader(self.tree, self.shop.workspace.root)
            for path in old["files"]:
                reader.note(path)
            plan = self._parse_plan(reader)
            if trace.get("parse", Digest.of_json(plan)) is not None:
                return plan
        reader = TreeReader(self.tree, self.shop.workspace.root)
        self._parse(reader, lambda _: None)
        return self._parse_plan(reader)

    def make_parse(self) -> Made:
        warnings: list[str] = []
        spec = self._parse(TreeReader(self.tree, self.shop.workspace.root), warnings.append)
        for warning in warnings:
            self.shop.say(f"warning: {self.project.folder}/{warning}")
        return Made(value=spec.to_json(),
                    words=f"{_count(len(spec.entry_points), 'entry point')}, "
                          f"{_count(len(spec.requirements), 'requirement')}"
        )

    def _parse(self, reader: TreeReader, warn: Callable[[str], None]) -> Spec:
        from toolchain.spec.mlproject import parse

        try:
            return parse(self.project.mlproject, os.path.basename(self.project.folder), reader,
                         self.config.python, warn)
        except SpecError as error:
            raise SpecError(error.what, where=_place(self.project.folder, error.where),
                            fix=error.fix) from None

    def _parse_plan(self, reader: TreeReader) -> Any:
        return {"schema": 1, "mlproject": self.project.mlproject, "name": self.name,
                "python": self.config.python, "files": reader.seen}

    @property
    def spec(self) -> Spec:
        return Spec.from_json(self.value("parse", self.plan_parse))

    # resolve

    @property
    def lock_path(self) -> Path:
        return self.folder / lock.FILE_NAME

    @property
    def base_lock_path(self) -> Path:
        return self.shop.workspace.root / base_lock.FILE_NAME

    def request(self) -> lock.Request:
        return lock.request(self.spec, self.config.python, self.config.image_platform)

    def plan_resolve(self) -> Any:
        """The request and the two lock files that answer it."""
        return {"request": self.request().plan(), "lock": _digest_of(self.lock_path),
                "base": _digest_of(self.base_lock_path)}

    def is_resolved(self) -> bool:
        return not self.config.upgrade

    def make_resolve(self) -> Made:
        request = self.request()
        wanted = Digest.of_json(request.plan())
        suite = base_lock.suite_for(request.python, f"{self.name}: python {request.python}")
        old = lock.read(self.lock_path, f"{self.project.folder}/{lock.FILE_NAME}")
        words = "lock is current"
        if old is None or old.input != wanted or self.config.upgrade:
            preferred = () if old is None or self.config.upgrade else old.packages
            with self.shop.progress(f"resolve {self.name}"):
                new = lock.make(request, preferred, self.shop.tools.resolver())
            words = lock.changes(old, new)
            replace_text(self.lock_path, lock.to_text(new))
            old = new
        pins, moved = self._pins(suite)
        if moved:
            words += f"; {base_lock.FILE_NAME}: {len(pins.packages)} packages of {suite}"
        return Made(value={**old.to_json(), "base": {
            "suite": suite, "packages": {p.name: p.sha256.hex for p in pins.packages},
        }}, words=f"{_count(len(old.packages), 'package')}, {words}")

    def _pins(self, suite: str) -> tuple[base_lock.BasePins, bool]:
        """The base's pins, and whether they were chosen now. One process chooses for all."""
        platform = self.config.image_platform
        question = Digest.of_json({"pin": suite, "platform": platform})
        with self.shop.trace.holding("pin", question):
            all_pins = base_lock.read(self.base_lock_path)
            found = [p for p in all_pins if (p.suite, p.platform) == (suite, platform)]
            if found and not (self.config.upgrade and _first_time(self.shop, question)):
                return found[0], False
            with self.shop.progress(f"pin {suite}"):
                pins = self.shop.tools.archive().pin(suite, platform)
            with self.shop.trace.holding("pin", Digest.of(b"base.lock")):
                others = [p for p in base_lock.read(self.base_lock_path)
                          if (p.suite, p.platform) != (suite, platform)]
                replace_text(self.base_lock_path, base_lock.to_text((*others, pins)))
            return pins, True

    @property
    def resolved(self) -> Any:
        return self.value("resolve", self.plan_resolve)

    @property
    def lock(self) -> lock.Lock:
        return lock.Lock.from_json(self.resolved, Digest.of_json(self.request().plan()))

    def pins(self) -> base_lock.BasePins:
        suite = self.resolved["base"]["suite"]
        return next(p for p in base_lock.read(self.base_lock_path)
                    if (p.suite, p.platform) == (suite, self.config.image_platform))

    # base

    def plan_base(self) -> Any:
        return layer.base_plan(self.lock, self.resolved["base"]["packages"])

    def is_based(self, value: Any) -> bool:
        return self._are_here(value) or self._published() is not None

    def make_base(self) -> Made:
        published = self._published()
        if published is not None:
            layers = published.layers[:-1]
            return Made(value=layer.to_json(layers),
                        words=f"{_count(len(layers), 'layer')} in the registry")
        return self.build_base()

    def build_base(self) -> Made:
        """Build the base layers here, whatever a registry has."""
        from toolchain.layer import debian, packages

        shop, locked, pins = self.shop, self.lock, self.pins()
        with ThreadPoolExecutor(os.cpu_count()) as pool, \
                shop.progress(f"base {self.name}") as progress:
            plan = debian.plan(pins, locked.python_minor)
            key = Digest.of_json(plan)
            made: set[Digest] = set()
            with shop.trace.holding("debian", key, self._waiting):
                known = shop.trace.get("debian", key)
                system = layer.from_json(known) if known else ()
                if not system or not all(shop.store.has(item.digest) for item in system):
                    shop.tools.debs().fetch(pins)
                    system = debian.make(pins, locked.python_minor, shop.store, pool)
                    shop.trace.record("debian", key, plan, layer.to_json(system),
                                      project=self.name)
                    made |= {item.digest for item in system}
            built = packages.make(locked, shop.tools.wheels(), shop.store, shop.trace, progress,
                                  pool, self._waiting)
        layers = (*system, *built.layers)
        new = [item for item in layers if item.digest in made | built.made]
        words = f"reused {len(layers) - len(new)} layers"
        if new:
            words += f", built {len(new)} ({size(sum(item.size for item in new))})"
        return Made(value=layer.to_json(layers), words=words)

    # layer

    def plan_layer(self) -> Any:
        from toolchain.layer.project import plan

        spec = self.spec
        result = plan(self.tree, spec.files, self._memo)
        self.tree.remember()
        return result

    def make_layer(self) -> Made:
        published = self._published()
        if published is not None:
            return Made(value=layer.to_json(published.layers[-1:]), words="in the registry")
        return self.build_layer()

    def build_layer(self) -> Made:
        """Build the project layer here, whatever a registry has."""
        from toolchain.layer.project import make

        plan = self.plan_layer()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            built = make(plan, self.tree, self.spec.files, self.shop.store, pool)
        return Made(value=layer.to_json((built,)),
                    words=f"{_count(len(plan['files']), 'file')} ({size(built.size)})")

    def _memo(self, question: Any, answer: Callable[[], Any]) -> Any:
        key = Digest.of_json(question)
        known = self.shop.trace.get("ignore", key)
        if known is None:
            known = answer()
            self.shop.trace.note("ignore", key, known)
        return known

    def _are_here(self, value: Any) -> bool:
        return all(self.shop.store.has(item.digest) for item in layer.from_json(value))

    def _published(self) -> image.Image | None:
        """The image, if the registry has it; then its layers need not be here."""
        registry = self.shop.tools.registry(self.config)
        found = push.find(registry, self.tag())
        return found if found is not None and registry.still_has(found.digest) else None

    # push

    def image_plan(self) -> Any:
        return image.plan(self.plan_base(), self.plan_layer(), USER, self.config.image_platform)

    def tag(self) -> str:
        return Digest.of_json(self.image_plan()).hex

    def plan_push(self) -> Any:
        return {"image": self.image_plan(), "to": self.shop.tools.registry_name(self.config)}

    def is_pushed(self, value: Any) -> bool:
        pushed = push.Pushed.from_json(value)
        return self.shop.tools.registry(self.config).still_has(pushed.digest)

    def make_push(self) -> Made:
        registry = self.shop.tools.registry(self.config)
        tag = self.tag()
        built = image.make(self.layers(), USER, self.config.image_platform)
        if registry.manifest(tag) == built.manifest and registry.still_has(built.digest):
            pushed = push.Pushed(reference=f"{registry.name}@{built.digest}", tag=tag,
                                 digest=built.digest)
            return Made(value=pushed.to_json(), words=f"already at {pushed.reference}")
        if not all(self.shop.store.has(item.digest) for item in built.layers):
            # What a registry had is gone from there, or another registry is meant now.
            built = image.make((*layer.from_json(self.build_base().value),
                                *layer.from_json(self.build_layer().value)),
                               USER, self.config.image_platform)
        with self.shop.progress(f"push {self.name}") as progress:
            pushed, count, sent = push.make(built, tag, registry, self.shop.store, progress)
        words = f"sent {count} of {len(built.layers)} layers ({size(sent)}) to {pushed.reference}"
        return Made(value=pushed.to_json(), words=words)

    def layers(self) -> tuple[layer.Layer, ...]:
        return (*layer.from_json(self.value("base", self.plan_base)),
                *layer.from_json(self.value("layer", self.plan_layer)))

    @property
    def pushed(self) -> push.Pushed:
        return push.Pushed.from_json(self.value("push", self.plan_push))

    # train

    def call(self, warn: Callable[[str], None] = lambda _: None) -> Call:
        return call(self.spec, self.config.entry_point, parse_params(self.config.params), warn)

    def plan_train(self) -> Any:
        settled = self.call()
        inputs = {name: digest for name, (digest, _) in self._inputs(settled).items()}
        return {
            "run": run.plan(self.pushed.digest, self.config.entry_point, settled, inputs),
            "tracking": self.shop.tools.tracking_identity(self.config),
        }

    def is_trained(self, value: Any) -> bool:
        return (not self.config.force
                and self.shop.tools.tracking(self.config).is_finished(value["run_id"]))

    def make_train(self) -> Made:
        plan = self.plan_train()
        key = Digest.of_json(plan["run"])
        tracker = self.shop.tools.tracking(self.config)
        experiment = self.shop.tools.experiment(self.config) or self.name
        found = None if self.config.force else tracker.find(key, experiment)
        if found is not None:
            return Made(value=found.to_json(), words=f"reused run {found.run_id}")
        project = self._project_layer()
        settled = self.call(lambda text: self.shop.say(f"warning: {text}"))
        paths = {name: text for name, (_, text) in self._inputs(settled).items()}
        done = run.make(
            key=key, project=self.name, entry_point=self.config.entry_point,
            command=settled.with_paths(paths).command(), params=settled.texts,
            experiment=experiment, pushed=self.pushed, lock=self.lock, layer=project,
            folder=str(self.folder), environment=self.spec.environment,
            engine=self.shop.tools.engine(self.config), tracker=tracker,
        )
        return Made(value=done.to_json(), words=f"run {done.run_id}")

    def _project_layer(self) -> layer.Layer:
        """The project layer, in the store even if only the registry had it."""
        (known,) = layer.from_json(self.value("layer", self.plan_layer))
        if self.shop.store.has(known.digest):
            return known
        (built,) = layer.from_json(self.build_layer().value)
        return built

    def _inputs(self, settled: Call) -> Mapping[str, tuple[Digest, str]]:
        """Local files and folders that `path` parameters name: digest, and path for the job."""
        found: dict[str, tuple[Digest, str]] = {}
        for name, (kind, text) in settled.parameters.items():
            if kind != "path" or "://" in text:
                continue
            path = self.folder / text
            if not path.exists():
                raise SpecError(
                    f"parameter {name!r} names a path that does not exist: {text}",
                    where=f"{self.name}, entry_points.{self.config.entry_point}.parameters.{name}",
                    fix="paths are relative to the project's folder; give an existing one",
                )
            inside = path.resolve().is_relative_to(self.folder.resolve())
            found[name] = (content(path, self.shop.journal), text if inside
                           else str(path.resolve()))
        return found

    # register

    def plan_register(self) -> Any:
        trained = run.Run.from_json(self.value("train", self.plan_train))
        return {
            "version": model.plan(trained, self.config.model_name or self.name, self.config.alias),
            "tracking": self.shop.tools.tracking_identity(self.config),
        }

    def is_registered(self, value: Any) -> bool:
        return bool(self.shop.tools.tracking(self.config).has_version(
            value["name"], value["version"], value["alias"]))

    def make_register(self) -> Made:
        trained = run.Run.from_json(self.value("train", self.plan_train))
        tracking = self.shop.tools.tracking(self.config)
        lineage = {"toolchain.run": trained.run_id, "toolchain.image": self.pushed.reference,
                   "toolchain.lock": str(self.lock.digest), **tracking.commit_of(trained.run_id)}
        done = model.make(trained, self.config.model_name or self.name, self.config.alias,
                          lineage, tracking)
        return Made(value=done.to_json(), words=f"{done.name} version {done.version}, "
                                                f"alias {done.alias}")

    def _waiting(self) -> None:
        self.shop.say(f"{self.name}: another process makes the same; waiting for it")


def size(count: int) -> str:
    """Bytes for people: `3.4 MB`."""
    for unit, factor in (("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _first_time(shop: Shop, question: Digest) -> bool:
    """Whether this process did not pin that suite yet: `upgrade=1` moves it once a call."""
    if question in shop.pinned:
        return False
    shop.pinned.add(question)
    return True


def _digest_of(path: Path) -> str | None:
    try:
        return Digest.of(path.read_bytes()).hex
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror}", where=str(path)) from None


def _place(folder: str, where: str) -> str:
    return f"{folder}/{where}" if where and not where.startswith("/") else where or folder

