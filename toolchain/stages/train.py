"""Pushed -> Run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolchain import determinism, quantity, run
from toolchain.chain import Chain, Made
from toolchain.config import Config
from toolchain.digest import Digest
from toolchain.errors import EngineError, SpecError
from toolchain.spec import Docker, address, command
from toolchain.spec.docker import placed
from toolchain.stages import layer, parse, push, remote, resolve
from toolchain.tree import Tree, content, watched

NAME = "train"


def plan(chain: Chain) -> Any:
    settled = call(chain)
    inputs = {name: digest for name, (digest, _) in inputs_of(chain, settled).items()}
    return {
        "run": run.plan(push.result(chain).config, chain.config.entry_point, settled, inputs),
        "tracking": chain.session.tools.tracking_identity(chain.config),
    }


def stands(chain: Chain, value: Any) -> bool:
    # The key: an input may have changed between the end of the training and its record.
    return (not chain.config.force and not chain.config.check
            and value["key"] == str(Digest.of_json(plan(chain)["run"]))
            and chain.session.tools.tracking(chain.config).is_finished(value["run_id"]))


def make(chain: Chain) -> Made:
    tracker = chain.session.tools.tracking(chain.config)
    key = Digest.of_json(plan(chain)["run"])
    found = None if chain.config.force else tracker.find(key, _experiment(chain))
    done = found or _trained(chain, key)
    words = f"{'reused run' if found else 'run'} {done.run_id}"
    if chain.config.check:
        second = _trained(chain, key, check_of=done.run_id)
        words = f"{words}; {determinism.check(done, second, tracker)}"
    return Made(value=done.to_json(), words=words)


def _trained(chain: Chain, key: Digest, check_of: str = "") -> run.Run:
    tools = chain.session.tools
    settled = call(chain, lambda text: chain.session.say(f"warning: {text}"))
    inputs = inputs_of(chain, settled)
    job = _job(chain, settled, inputs)
    done = run.make(
        key=key, entry_point=chain.config.entry_point, params=recorded(settled),
        experiment=_experiment(chain), folder=str(chain.folder),
        environment=parse.result(chain).environment, job=job,
        engine=tools.engine(chain.config), tracker=tools.tracking(chain.config),
        force=chain.config.force, check_of=check_of, changed=lambda: changed(chain, inputs),
        waiting=lambda text: chain.session.say(f"{NAME} {chain.name}  {text}"),
        preparing=lambda: chain.session.progress(f"prepare {chain.name}"),
    )
    _say_what_is_newer(chain, done)
    return done


def timeout(config: Config) -> float:
    """Seconds that the settings give a job; zero is no limit."""
    return quantity.seconds(config.timeout or "0")


def resources(config: Config) -> run.Resources:
    """What the settings ask for."""
    return run.Resources(
        cpus=quantity.processors(config.cpus or "0"), memory=quantity.size(config.memory or "0"),
        gpus=quantity.count(config.gpus or "0"), shm=quantity.size(config.shm or "0"))


def _experiment(chain: Chain) -> str:
    return chain.session.tools.experiment(chain.config) or chain.name


def changed(chain: Chain, inputs: Mapping[str, tuple[Digest, str]]) -> str:
    """Inputs that the job read where they are, and that are not what they were any more."""
    found = []
    for name, (digest, text) in inputs.items():
        if text.startswith("/"):
            try:
                same = content(Path(text), chain.session.journal) == digest
            except (OSError, SpecError):  # gone, or being written
                same = False
            found += [] if same else [f"parameter {name!r} ({text})"]
    return ", ".join(found)


def _say_what_is_newer(chain: Chain, done: run.Run) -> None:
    """The job had a copy of the project's files; those that were edited since are not in it."""
    tree = Tree(chain.folder, chain.session.journal)
    names = {file[0] for file in layer.plan(chain)["files"]}
    edited = sorted(name for name in names if name in chain.tree.found
                    and (name not in tree.found
                         or tree.found[name].stamp != chain.tree.found[name].stamp))
    if edited:
        more = f" and {len(edited) - 3} more" if len(edited) > 3 else ""
        chain.session.say(
            f"note: {chain.name}: {', '.join(edited[:3])}{more} changed meanwhile; run "
            f"{done.run_id} is of the files as they were when it began")


def preview(chain: Chain) -> str:
    """What a training would submit, as the engine shows it; nothing is submitted or begun."""
    engine = chain.session.tools.engine(chain.config)
    if not isinstance(engine, run.Previews):
        raise EngineError(f"engine {engine.name} submits nothing that could be shown",
                          where="dry_run", fix="give it with engine=kubernetes")
    settled, key = call(chain), Digest.of_json(plan(chain)["run"])
    return engine.preview(replace(_job(chain, settled, inputs_of(chain, settled)), key=str(key)))


def _job(chain: Chain, settled: command.Call,
         inputs: Mapping[str, tuple[Digest, str]]) -> run.Job:
    local = settled.with_paths({name: text for name, (_, text) in inputs.items()})
    return run.Job(
        name=chain.name, command=local.command(), docker=docker_of(chain),
        environment={**parse.result(chain).variables, **local.variables()},
        lock=resolve.result(chain), project=layer.in_store(chain), image=push.assembled(chain),
        pushed=push.result(chain),
        readable=tuple(text for _, text in inputs.values() if text.startswith("/")),
        timeout=timeout(chain.config), resources=resources(chain.config))


def result(chain: Chain) -> run.Run:
    return run.Run.from_json(chain.value(NAME, plan))


def call(chain: Chain, warn: Callable[[str], None] = lambda _: None) -> command.Call:
    """The entry point and parameters asked for, checked. Raises SpecError."""
    name, spec = chain.config.entry_point, parse.result(chain)
    if (name not in spec.entry_points and name.endswith(command.SCRIPTS)
            and name not in chain.tree.found):
        raise SpecError(f"the project has no file {name!r}", where=chain.name,
                        fix="name a file relative to the project's folder, or an entry point")
    return command.call(spec, name, command.parse_params(chain.config.params), warn)


def docker_of(chain: Chain) -> Docker | None:
    docker = parse.result(chain).docker
    return docker and placed(docker, chain.folder.resolve())


def recorded(settled: command.Call) -> dict[str, str]:
    """Parameters as the run records them."""
    return {name: address.shown(text) if kind == "path" and address.is_remote(text) else text
            for name, (kind, text) in settled.parameters.items()}


def inputs_of(chain: Chain, settled: command.Call) -> Mapping[str, tuple[Digest, str]]:
    """Files and folders that `path` parameters name: digest, and path for the job."""
    found: dict[str, tuple[Digest, str]] = {}
    for name, (kind, text) in settled.parameters.items():
        if kind != "path":
            continue
        if address.is_remote(text):
            found[name] = remote.bring(chain, text)
            continue
        path = chain.folder / address.local(text)
        if "\0" in text or not path.exists():
            raise SpecError(
                f"parameter {name!r} names a path that does not exist: {text}",
                where=f"{chain.name}, entry_points.{chain.config.entry_point}.parameters.{name}",
                fix="paths are relative to the project's folder; give an existing one",
            )
        found[name] = (content(path, chain.session.journal),
                       text if _is_copied(chain, path) else str(path.resolve()))
    return found


def evidence(chain: Chain) -> set[Path]:
    """The files and folders of this machine that decide what `path` parameters name."""
    found: set[Path] = set()
    for kind, text in call(chain).parameters.values():
        if kind == "path" and not address.is_remote(text):
            found |= watched(chain.folder / address.local(text))
    return found


def _is_copied(chain: Chain, path: Path) -> bool:
    """Whether the job finds the file or folder in its own copy of the project, whole."""
    try:
        inside = path.resolve().relative_to(chain.folder.resolve()).as_posix()
    except ValueError:
        return False
    below = {name for name in chain.tree.found if f"{name}/".startswith(f"{inside}/")}
    copied = {file[0] for file in layer.plan(chain)["files"]}
    return bool(below) and below <= copied
