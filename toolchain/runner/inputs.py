"""arguments and environment -> Inputs: what is to be run. The names are those of FuseML."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from toolchain.errors import ConfigError, SpecError, nearest
from toolchain.spec.command import parse_params

USAGE = """\
run [OPTION…] [NAME=VALUE…]   run an entry point of the project; the default
PROGRAM [ARGUMENT…]           run any other program of the image instead

  --entrypoint NAME      entry point of MLproject             mlflow_entrypoint (main)
  --args "A=1 B=2"       parameters, by blank or comma        mlflow_entrypoint_args
  --experiment NAME      MLflow experiment                    mlflow_experiment
  --artifact-path PATH   artifact whose URL is the result     mlflow_artifact_path (model)
  --verbose              say what is done                     verbose

The variables on the right mean the same; their names may be in upper case, also after FUSEML_.
MLFLOW_TRACKING_URI says where runs are logged. With MLFLOW_RUN_ID that run is joined.
TASK_RESULT is a file, or a name below /tekton/results, that gets the artifact's URL."""

_DEFAULT_ARTIFACT = "model"
_OPTIONS = {
    "entrypoint": "mlflow_entrypoint", "args": "mlflow_entrypoint_args",
    "experiment": "mlflow_experiment", "artifact-path": "mlflow_artifact_path",
    "verbose": "verbose",
}
_ALIASES = {"entry-point": "entrypoint", "entrypoint-args": "args", "params": "args"}


@dataclass(frozen=True)
class Inputs:
    """What to run. `must_have_artifact`: somebody asked for that very artifact."""

    entry_point: str
    parameters: Mapping[str, str]
    experiment: str
    artifact_path: str
    must_have_artifact: bool
    verbose: bool


def read(arguments: Sequence[str], environ: Mapping[str, str]) -> Inputs:
    """Arguments win over the environment. Raises ConfigError, SpecError."""
    given = {name: variable(environ, name) for name in _OPTIONS.values()}
    options, words = _options(arguments)
    given.update(options)
    parameters = _texts(given["mlflow_entrypoint_args"])
    for word in words:
        parameters.update(_word(word))
    path = given["mlflow_artifact_path"].strip("/") or _DEFAULT_ARTIFACT
    if ".." in path.split("/"):
        raise ConfigError(f"an artifact's path leaves the run: {path}",
                          where="mlflow_artifact_path", fix="give a path below the run's artifacts")
    return Inputs(
        entry_point=given["mlflow_entrypoint"] or "main", parameters=parameters,
        experiment=given["mlflow_experiment"], artifact_path=path,
        must_have_artifact=bool(given["mlflow_artifact_path"]),
        verbose=is_yes(given["verbose"], "verbose"),
    )


def variable(environ: Mapping[str, str], name: str) -> str:
    """An input from the environment, under whichever of its names; empty where it is not given."""
    for spelling in (name, name.upper(), f"FUSEML_{name.upper()}", f"FUSEML_{name}"):
        if environ.get(spelling):
            return environ[spelling]
    return ""


def is_yes(text: str, where: str) -> bool:
    if text.lower() in ("", "0", "false", "no", "off"):
        return False
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    raise ConfigError(f"{where} is yes or no, not {text!r}", where=where,
                      fix=f"{where}=true or {where}=false")


def _options(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    given: dict[str, str] = {}
    words: list[str] = []
    left = list(arguments[1:] if arguments[:1] == ["run"] else arguments)
    while left:
        argument = left.pop(0)
        if not argument.startswith("-"):
            words.append(argument)
            continue
        written, equals, value = argument.partition("=")
        name = _canonical(written)
        if name not in _OPTIONS:
            hint = nearest(name, _OPTIONS)
            raise ConfigError(f"unknown option {written}{hint}", where="arguments",
                              fix="parameters of the entry point are given as NAME=VALUE; "
                                  "`--help` lists the options")
        if name == "verbose":
            given[_OPTIONS[name]] = value if equals else "yes"
        elif equals or left:
            given[_OPTIONS[name]] = value if equals else left.pop(0)
        else:
            raise ConfigError(f"{written} has no value", where="arguments",
                              fix=f"{written} VALUE")
    return given, words


def _canonical(written: str) -> str:
    name = written.lstrip("-").replace("_", "-")
    name = name[len("mlflow-"):] if name.startswith("mlflow-") else name
    return _ALIASES.get(name, name)


def _texts(text: str) -> dict[str, str]:
    try:
        return parse_params(text)
    except SpecError as error:
        raise SpecError(error.what, where="mlflow_entrypoint_args",
                        fix=in_words_of_the_image(error.fix)) from None


def _word(word: str) -> dict[str, str]:
    """`a=1` or `a=1,b=2`: the shell took the quotes away, so what is left counts as it stands."""
    parameters = {}
    for part in re.split(r",(?=[\w.-]+=)", word):
        name, equals, value = part.partition("=")
        if not equals or not name:
            raise ConfigError(f"neither an option nor NAME=VALUE: {part!r}", where="arguments",
                              fix="`--help` lists what can be given")
        parameters[name] = value
    return parameters


def in_words_of_the_image(fix: str) -> str:
    """A remedy that names doit's `params` names what there is in an image."""
    return fix.replace('params="', 'mlflow_entrypoint_args="')
