"""codeset -> an image in a registry, and its name in a result: FuseML's builder step.

`python -m toolchain.steps.builder` reads one MLflow project in the working folder, which is the
whole workspace. There is no doit here: the stages run one after the other.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from toolchain import pipeline, report, wiring
from toolchain.chain import Chain
from toolchain.config import Config
from toolchain.errors import ConfigError, SpecError, ToolchainError
from toolchain.journal import Journal
from toolchain.push import Pushed
from toolchain.runner import result
from toolchain.scan import mlproject_in
from toolchain.stages import platforms, push
from toolchain.steps import inputs
from toolchain.workspace import Project, Workspace

_STAGES = ("parse", "resolve", "base", "layer", "push")
_IMAGE, _DIGEST = "image", "digest"  # names of the results


def main(arguments: Sequence[str], environ: Mapping[str, str], folder: Path) -> int:
    """Build and push the project in `folder`. The exit status: 0, 1 for an error, 130, 143."""
    try:
        asked = inputs.read(arguments, environ, lambda text: _say(f"warning: {text}"))
        places = _places(environ)
        pushed, name = build(folder, asked.settings, verbose=asked.verbose)
        found = {_IMAGE: f"{name}:{pushed.tag}", _DIGEST: str(pushed.digest)}
        for what, place in places.items():
            result.write(place, found[what])
        for what, text in found.items():
            report.emit(f"{what}={text}")
    except ToolchainError as error:
        _say(str(error))
        return 1
    except (KeyboardInterrupt, SystemExit) as error:
        from toolchain import workers

        # Nothing but a signal leaves a build as SystemExit: `_ended`, or what supervises a child.
        number = signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM
        _say("interrupted")
        workers.end_with(128 + number)  # an upload may take minutes yet
        return 128 + number
    return 0


def build(folder: Path, settings: Mapping[str, str], *, verbose: bool) -> tuple[Pushed, str]:
    """Bring the project's image about; where it is, and the repository's name when it is pulled.

    Raises ToolchainError.
    """
    workspace = Workspace.open(folder, settings)
    if not workspace.config.registry:
        raise ConfigError("no registry is given", where="registry",
                          fix="say --registry=HOST:PORT, or set the variable `registry`")
    if workspace.cache.resolve().is_relative_to(folder.resolve()):
        raise ConfigError("the cache would be a part of the image", where=str(workspace.cache),
                          fix="give --cache=FOLDER or TOOLCHAIN_CACHE outside the codeset")
    if not os.environ.get("UV_NO_CACHE"):  # one volume, or writable folder, is enough for both
        os.environ.setdefault("UV_CACHE_DIR", str(workspace.cache / "uv"))
    os.environ.setdefault("UV_PYTHON_INSTALL_DIR", str(workspace.cache / "pythons"))
    chain = _chain(workspace, _project(folder))
    if verbose:
        _say_more(workspace.config, chain)
    for name in _STAGES:
        stage = pipeline.stage_of(name)
        if pipeline.is_fresh(chain, stage):
            _say(report.up_to_date(name, chain.name))
            continue
        outcome = pipeline.run(chain, stage)
        _say(report.line(name, chain.name, outcome.words, outcome.seconds))
    pushed = Pushed.from_json(platforms.whole(push, chain))
    return pushed, chain.session.tools.registry(chain.config).name


def _project(folder: Path) -> Project:
    """The project that the folder is. Raises SpecError."""
    try:
        found = mlproject_in(folder)
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror}", where=str(folder),
                        fix="make it readable") from None
    if found is None:
        raise SpecError("no MLproject in the working folder", where=str(folder),
                        fix="run the step where the codeset is; the file lies at its top")
    mlproject, name = found
    return Project(name=name or folder.name, folder=".", mlproject=mlproject)


def _chain(workspace: Workspace, project: Project) -> Chain:
    session = wiring.session(workspace, Journal(workspace.cache), _say)
    # The workspace's settings are the project's: both stand in one pyproject.toml.
    return Chain(session, project, workspace.config)


def _places(environ: Mapping[str, str]) -> dict[str, str]:
    """Result -> file. Where nobody wants files, there are none. Raises ConfigError."""
    folder = environ.get("TASK_RESULTS_DIR", "") or result.FOLDER
    name = environ.get("TASK_RESULT", "")
    if not (name or environ.get("TASK_RESULTS_DIR") or os.path.isdir(folder)):
        return {}
    image = result.checked(name or _IMAGE, folder)
    return {_IMAGE: image, _DIGEST: result.checked(_DIGEST, os.path.dirname(image))}


def _say_more(config: Config, chain: Chain) -> None:
    _say(f"codeset {chain.folder}, project {chain.name}, base image {config.image_base}, "
         f"platform {config.image_platform}, cache {chain.session.workspace.cache}")
    _say(f"to {chain.session.tools.registry_name(config)}")


def _say(text: str) -> None:
    """Progress is for people; standard output holds the results."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _ended(number: int, _: object) -> None:
    """As process 1 of a container, which a signal does not end by itself."""
    sys.exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _ended)
    sys.exit(main(sys.argv[1:], os.environ, Path.cwd()))
