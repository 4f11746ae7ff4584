"""MLproject and its environment file -> Spec: what a project is and what it needs.

`plan` reads, `make` validates; both are pure over a `Reader`, which is the only way to a file.
The files' canonical texts travel with the Spec: the project layer holds those instead of the
originals, so that a comment, an indentation or the order of keys changes no image.

This file and `command` are in every image too (toolchain.layer.runner), where Python may be 3.9:
standard library only, and no dataclass with slots.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

PARAMETER_TYPES = ("string", "float", "int", "path", "uri", "bool")


class Reader(Protocol):
    """Reads a project's text files. Paths are relative to the project folder, with `/`."""

    def read(self, path: str) -> str | None:
        """The file's text without a byte order mark, or None where there is no such file.

        Raises SpecError for a path that leaves the workspace and for text that is not UTF-8.
        """


Warn = Callable[[str], None]


@dataclass(frozen=True)
class Parameter:
    """A parameter of an entry point. `default` is text as it will be substituted, or None."""

    type: str = "string"
    default: str | None = None
    description: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"type": self.type, "default": self.default, **_described(self.description)}

    @classmethod
    def from_json(cls, value: Any) -> Parameter:
        return cls(type=value["type"], default=value["default"],
                   description=value.get("description", ""))


@dataclass(frozen=True)
class EntryPoint:
    """A named command with `{parameter}` placeholders, run by `bash -c` as MLflow runs it."""

    command: str
    parameters: Mapping[str, Parameter]
    description: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "command": self.command,
            "parameters": {name: item.to_json() for name, item in self.parameters.items()},
            **_described(self.description),
        }

    @classmethod
    def from_json(cls, value: Any) -> EntryPoint:
        return cls(
            command=value["command"],
            parameters={name: Parameter.from_json(item)
                        for name, item in value["parameters"].items()},
            description=value.get("description", ""),
        )


@dataclass(frozen=True)
class Docker:
    """A project's docker_env: the image that its packages are in.

    image: a reference. volumes: as Docker's `--volume` takes them. environment: variables that
    are set. copied: names of variables that a run takes over from where it is started; their
    values are read then, and are on no record.
    """

    image: str
    volumes: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    copied: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"image": self.image, "volumes": list(self.volumes),
                "environment": dict(self.environment), "copied": list(self.copied)}

    @classmethod
    def from_json(cls, value: Any) -> Docker:
        return cls(image=value["image"], volumes=tuple(value["volumes"]),
                   environment=dict(value["environment"]), copied=tuple(value["copied"]))


def _described(description: str) -> dict[str, str]:
    return {"description": description} if description else {}


@dataclass(frozen=True)
class Conda:
    """What a project wants of conda: channels, the first the strongest, and packages, sorted.

    A channel is a name, a URL or a path (`./x`, `../x`) from the project's folder. It holds no
    password; `${NAME}` in it is taken from the environment when the channel is asked.
    file: the environment file.
    """

    channels: tuple[str, ...]
    packages: tuple[str, ...]
    file: str

    def to_json(self) -> dict[str, Any]:
        return {"channels": list(self.channels), "packages": list(self.packages),
                "file": self.file}

    @classmethod
    def from_json(cls, value: Any) -> Conda:
        return cls(channels=tuple(value["channels"]), packages=tuple(value["packages"]),
                   file=value["file"])


@dataclass(frozen=True)
class Spec:
    """A valid project.

    environment: the kind of its environment, in MLflow's words (`python_env`, `conda`, `docker`).
    python: `X.Y` or `X.Y.Z`; empty where the project names none.
    requirements: PEP 508, normalised and sorted. constraints: the same, from `-c` files.
    hashes: by canonical name, the sha256 digests (hex) that the project itself insists on.
    files: path -> canonical text of MLproject and of every environment file that was read;
    paths that begin with `../` lie outside the project. docker: where the kind is `docker`.
    sources: requirements that name a folder, a repository or a file (toolchain.spec.source), as
    JSON. options: what an index may be asked for (toolchain.spec.options), a line each.
    locked: the file of `files` that is another tool's lock, to be used as it stands.
    conda: None where conda is not needed; else `python` is empty, conda decides it.
    variables: what the environment file sets in the environment of every entry point.
    places: name of a package -> where it is asked for, as in `requirements.txt:3`. For messages: a
    spec that was read from JSON has none.
    """

    name: str
    environment: str
    python: str
    requirements: tuple[str, ...]
    constraints: tuple[str, ...]
    hashes: Mapping[str, tuple[str, ...]]
    entry_points: Mapping[str, EntryPoint]
    files: Mapping[str, str]
    docker: Docker | None = None
    sources: tuple[Mapping[str, Any], ...] = ()
    options: tuple[str, ...] = ()
    locked: str = ""
    conda: Conda | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, list[str]] = field(default_factory=dict, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        more = {"sources": [dict(source) for source in self.sources],
                "options": list(self.options), "locked": self.locked}
        return {
            **{name: value for name, value in more.items() if value},
            "name": self.name,
            "environment": self.environment,
            "python": self.python,
            "requirements": list(self.requirements),
            "constraints": list(self.constraints),
            "hashes": {name: list(values) for name, values in self.hashes.items()},
            "entry_points": {name: entry.to_json() for name, entry in self.entry_points.items()},
            "files": dict(self.files),
            **({"docker": self.docker.to_json()} if self.docker else {}),
            **({"conda": self.conda.to_json()} if self.conda else {}),
            **({"variables": dict(self.variables)} if self.variables else {}),
        }

    def for_runner(self) -> Spec:
        """A copy with what running an entry point needs alone; it goes into the image."""
        return replace(self, python="", requirements=(), constraints=(), hashes={}, files={},
                       docker=None, sources=(), options=(), locked="",
                       conda=None, variables={})

    @classmethod
    def from_json(cls, value: Any) -> Spec:
        return cls(
            name=value["name"],
            environment=value["environment"],
            python=value["python"],
            requirements=tuple(value["requirements"]),
            constraints=tuple(value["constraints"]),
            hashes={name: tuple(hexes) for name, hexes in value["hashes"].items()},
            entry_points={name: EntryPoint.from_json(entry)
                          for name, entry in value["entry_points"].items()},
            files=dict(value["files"]),
            docker=Docker.from_json(value["docker"]) if "docker" in value else None,
            sources=tuple(value.get("sources", ())),
            options=tuple(value.get("options", ())),
            locked=value.get("locked", ""),
            conda=Conda.from_json(value["conda"]) if "conda" in value else None,
            variables=dict(value.get("variables", {})),
        )
