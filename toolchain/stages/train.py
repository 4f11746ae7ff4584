"""Pushed -> Run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from toolchain import run
from toolchain.chain import Chain, Made
from toolchain.digest import Digest
from toolchain.errors import SpecError
from toolchain.spec import Docker, command
from toolchain.spec.docker import placed
from toolchain.stages import layer, parse, push, remote, resolve
from toolchain.tree import content

NAME = "train"


def plan(chain: Chain) -> Any:
    settled = call(chain)
    inputs = {name: digest for name, (digest, _) in _inputs(chain, settled).items()}
    return {
        "run": run.plan(push.result(chain).config, chain.config.entry_point, settled, inputs),
        "tracking": chain.session.tools.tracking_identity(chain.config),
    }


def stands(chain: Chain, value: Any) -> bool:
    return (not chain.config.force
            and chain.session.tools.tracking(chain.config).is_finished(value["run_id"]))


def make(chain: Chain) -> Made:
    tools = chain.session.tools
    key = Digest.of_json(plan(chain)["run"])
    tracker = tools.tracking(chain.config)
    experiment = tools.experiment(chain.config) or chain.name
    found = None if chain.config.force else tracker.find(key, experiment)
    if found is not None:
        return Made(value=found.to_json(), words=f"reused run {found.run_id}")
    settled = call(chain, lambda text: chain.session.say(f"warning: {text}"))
    paths = {name: text for name, (_, text) in _inputs(chain, settled).items()}
    local = settled.with_paths(paths)
    job = run.Job(
        name=chain.name, command=local.command(), docker=_docker(chain),
        environment={**parse.result(chain).variables, **local.variables()},
        lock=resolve.result(chain), project=layer.in_store(chain), image=push.assembled(chain),
        pushed=push.result(chain),
        readable=tuple(text for text in paths.values() if text.startswith("/")))
    done = run.make(
        key=key, entry_point=chain.config.entry_point, params=_params(settled),
        experiment=experiment, folder=str(chain.folder),
        environment=parse.result(chain).environment, job=job,
        engine=tools.engine(chain.config), tracker=tracker,
    )
    return Made(value=done.to_json(), words=f"run {done.run_id}")


def result(chain: Chain) -> run.Run:
    return run.Run.from_json(chain.value(NAME, plan))


def call(chain: Chain, warn: Callable[[str], None] = lambda _: None) -> command.Call:
    """The entry point and parameters asked for, checked. Raises SpecError."""
    name, spec = chain.config.entry_point, parse.result(chain)
    if (name not in spec.entry_points and name.endswith(command.SCRIPTS)
            and name not in chain.tree.found):
        raise SpecError(f"the project has no file {name!r}", where=chain.name,
                        fix="name a file relative to the project's folder, or an entry point")
    return command.call(parse.result(chain), chain.config.entry_point,
                        command.parse_params(chain.config.params), warn)


def _docker(chain: Chain) -> Docker | None:
    docker = parse.result(chain).docker
    return docker and placed(docker, chain.folder.resolve())


def _params(settled: command.Call) -> dict[str, str]:
    """Parameters as the run records them."""
    return {name: remote.shown(text) if kind == "path" and remote.is_remote(text) else text
            for name, (kind, text) in settled.parameters.items()}


def _inputs(chain: Chain, settled: command.Call) -> Mapping[str, tuple[Digest, str]]:
    """Files and folders that `path` parameters name: digest, and path for the job."""
    found: dict[str, tuple[Digest, str]] = {}
    for name, (kind, text) in settled.parameters.items():
        if kind != "path":
            continue
        if remote.is_remote(text):
            found[name] = remote.bring(chain, text)
            continue
        path = chain.folder / _local(text)
        if "\0" in text or not path.exists():
            raise SpecError(
                f"parameter {name!r} names a path that does not exist: {text}",
                where=f"{chain.name}, entry_points.{chain.config.entry_point}.parameters.{name}",
                fix="paths are relative to the project's folder; give an existing one",
            )
        found[name] = (content(path, chain.session.journal),
                       text if _is_copied(chain, path) else str(path.resolve()))
    return found


def _local(text: str) -> str:
    if not text.startswith("file:/"):
        return text
    from urllib.parse import unquote, urlsplit

    return unquote(urlsplit(text).path)


def _is_copied(chain: Chain, path: Path) -> bool:
    """Whether the job finds the file or folder in its own copy of the project, whole."""
    try:
        inside = path.resolve().relative_to(chain.folder.resolve()).as_posix()
    except ValueError:
        return False
    below = {name for name in chain.tree.found if f"{name}/".startswith(f"{inside}/")}
    copied = {file[0] for file in layer.plan(chain)["files"]}
    return bool(below) and below <= copied
