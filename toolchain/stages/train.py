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
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


_Inputs = Mapping[str, tuple[Digest, str]]  # parameter -> digest, and path for the job


def plan(chain: Chain) -> Any:
    settled = call(chain)
    return {
        "run": _run_plan(chain, settled, inputs_of(chain, settled)),
        "tracking": chain.session.tools.tracking_identity(chain.config),
    }


def _run_plan(chain: Chain, settled: command.Call, inputs: _Inputs) -> dict[str, Any]:
    return run.plan(push.result(chain).config, chain.config.entry_point, settled,
                    {name: digest for name, (digest, _) in inputs.items()})


def stands(chain: Chain, value: Any) -> bool:
    # The key: an input may have changed between the end of the training and its record.
    return (not chain.config.force and not chain.config.check
            and value["key"] == str(Digest.of_json(plan(chain)["run"]))
            and chain.session.tools.tracking(chain.config).is_finished(value["run_id"]))


def make(chain: Chain) -> Made:
    tracker = chain.session.tools.tracking(chain.config)
    settled = call(chain)
    inputs = inputs_of(chain, settled)  # read once: the key is of what the job is watched for
    key = Digest.of_json(_run_plan(chain, settled, inputs))
    found = None if chain.config.force else tracker.find(key, _experiment(chain))
    done = found or _trained(chain, key, settled, inputs)
    words = f"{'reused run' if found else 'run'} {done.run_id}"
    if chain.config.check:
        second = _trained(chain, key, settled, inputs, check_of=done.run_id)
        words = f"{words}; {determinism.check(done, second, tracker)}"
    return Made(value=done.to_json(), words=words)


def _trained(chain: Chain, key: Digest, settled: command.Call, inputs: _Inputs,
             check_of: str = "") -> run.Run:
    tools = chain.session.tools
    if not check_of:
        call(chain, lambda text: chain.session.say(f"warning: {text}"))
        _say_what_cannot_log(chain)
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


def changed(chain: Chain, inputs: _Inputs) -> str:
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


def _say_what_cannot_log(chain: Chain) -> None:
    """mlflow-skinny has no SQLAlchemy, and ends in a traceback of its own at a database."""
    scheme = chain.session.tools.tracking_identity(chain.config).partition(":")[0]
    names = resolve.result(chain).names
    if (scheme.partition("+")[0] in _DATABASES and "mlflow-skinny" in names
            and not names >= {"sqlalchemy", "alembic"}):
        chain.session.say(
            f"warning: {chain.name}: its mlflow-skinny cannot log to {scheme}:, where runs go; "
            "require mlflow, or name a tracking server")


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
    settled = call(chain)
    inputs = inputs_of(chain, settled)
    key = Digest.of_json(_run_plan(chain, settled, inputs))
    return engine.preview(replace(_job(chain, settled, inputs), key=str(key)))


def _job(chain: Chain, settled: command.Call, inputs: _Inputs) -> run.Job:
    local = settled.with_paths({name: text for name, (_, text) in inputs.items()})
    return run.Job(
        name=chain.name, trial=chain.name if _shares_output() else "",
        command=local.command(), docker=docker_of(chain),
        environment={**parse.result(chain).variables, **local.variables()},
        lock=resolve.result(chain), project=layer.in_store(chain), image=push.assembled(chain),
        pushed=push.result(chain),
        readable=tuple(text for _, text in inputs.values() if text.startswith("/")),
        timeout=timeout(chain.config), resources=resources(chain.config))


def _shares_output() -> bool:
    """Whether other jobs of this call may write at the same time, as with `doit -n 2`."""
    import multiprocessing
    import threading

    return (multiprocessing.parent_process() is not None
            or threading.current_thread() is not threading.main_thread())


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


def inputs_of(chain: Chain, settled: command.Call) -> _Inputs:
    """Files and folders that `path` parameters name."""
    found: dict[str, tuple[Digest, str]] = {}
    for name, (kind, text) in settled.parameters.items():
        if kind != "path":
            continue
        if address.is_remote(text):
            found[name] = remote.bring(chain, text)
            continue
        path = chain.folder / address.local(text)
        where = f"{chain.name}, entry_points.{chain.config.entry_point}.parameters.{name}"
        if not _exists(path):
            raise SpecError(
                f"parameter {name!r} names a path that does not exist: {text}", where=where,
                fix="paths are relative to the project's folder; give an existing one",
            )
        if not _may_read(chain, path, name, text):
            raise SpecError(
                f"parameter {name!r} names a path outside the repository: {text}", where=where,
                fix=f'if that is what you mean, say so in the call: params="{name}={text}"')
        found[name] = (content(path, chain.session.journal),
                       text if _is_copied(chain, path) else str(path.resolve()))
    return found


def _may_read(chain: Chain, path: Path, name: str, text: str) -> bool:
    """Whether a job may have what is there. A project out of a repository reads nothing beside it,
    unless whoever calls gives the path."""
    if not chain.project.root or path.resolve().is_relative_to(chain.boundary.resolve()):
        return True
    given = chain.session.workspace.call.get("params", "")
    return command.parse_params(given).get(name) == text


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except (OSError, ValueError):  # too long, or with a zero byte
        return False
    return True


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
