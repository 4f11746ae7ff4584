"""A Docker engine: images into it, and out of it. Source: Docker Engine API 1.41 and later.

The engine is the one that DOCKER_HOST or the current Docker context names. Engines keep images in
one of two stores. The classic one looks a layer up by its chain of diff_ids before it opens the
layer's file, so files of layers that it has may be left out of what it loads, and calls an image
by its config's digest. containerd's wants every blob and calls an image by its manifest's digest;
`docker info` tells which it is.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from toolchain.adapters.docker_save import SavedImage
from toolchain.digest import Digest
from toolchain.errors import EngineError, without_credentials
from toolchain.image import Image
from toolchain.values import dataclass

_TIMEOUT = 600  # seconds without a word; unpacking a large layer is silent
_CONTAINERD = "io.containerd.snapshotter.v1"
_SHOWN = 5  # lines of a build that failed
_ZSTD_SINCE = 23  # major version of the first engine that reads zstd layers


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineImage:
    """An image as the engine describes it. What it says is checked when the layers are read.

    id: what the engine calls it; diff_ids: of its layers, from the lowest; platform:
    `os/architecture`; config: the defaults of containers, as `config` in OCI image-spec config.md.
    """

    id: Digest
    diff_ids: tuple[Digest, ...]
    platform: str
    config: Mapping[str, Any]


class DockerEngine:
    """The Docker engine of `environ`; implements toolchain.load.ImageEngine."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def check(self, image: Image) -> None:
        """Raise EngineError for another platform, or for a compression it does not read."""
        config = json.loads(image.config)
        wanted = f"{config['os']}/{config['architecture']}"
        with self._asking("GET /version"):
            version = self._api.version()
        here = f"{version.get('Os')}/{version.get('Arch')}"
        if wanted != here:
            raise EngineError(
                f"an image for {wanted} does not run on this engine, which is {here}",
                where=self._where, fix=f"build it with image.platform={here}; `doit export` "
                "writes a file that another machine loads")
        number = str(version.get("Version", "")).partition(".")[0]
        if number.isdigit() and int(number) < _ZSTD_SINCE and any(
                layer.media_type.endswith("zstd") for layer in image.layers):
            raise EngineError(
                f"Docker {version['Version']} does not read layers compressed with zstd",
                where=self._where, fix="build the image with gzip layers, or use Docker "
                f"{_ZSTD_SINCE} or newer")

    def find(self, image: Image) -> str | None:
        """The engine's ID of the very image."""
        for digest in (image.config_digest, image.digest):
            found = self._described(str(digest))
            if found is not None and found.get("Id") == str(digest):
                return str(digest)
        return None

    def shared(self, image: Image) -> int:
        """How many of the image's first layers some image of the engine begins with."""
        if self._has_containerd_store:
            return 0
        wanted = [str(layer.diff_id) for layer in image.layers]
        most = 0
        with self._asking("GET /images/json"):
            names = self._api.images(quiet=True)
        for name in names:
            described = self._described(name)  # None: removed a moment ago
            layers = ((described or {}).get("RootFS") or {}).get("Layers") or []
            same = 0
            for one, other in zip(wanted, layers, strict=False):
                if one != other:
                    break
                same += 1
            most = max(most, same)
            if most == len(wanted):
                break
        return most

    def load(self, archive: Iterator[bytes]) -> None:
        """Read an archive of an image, as a stream."""
        where = "POST /images/load"
        with self._asking(where):
            for event in self._api.load_image(archive):
                if "error" in event:
                    raise self._refused(str(event["error"]), where)

    def pull(self, reference: str) -> None:
        """Let the engine pull `name@digest`. Raises EngineError."""
        where = f"POST /images/create?fromImage={reference}"
        with self._asking(where):
            for event in self._api.pull(reference, stream=True, decode=True):
                if "error" in event:
                    raise self._refused(str(event["error"]), where)

    @contextlib.contextmanager
    def talking(self, where: str) -> Iterator[Any]:
        """The engine's API, its errors explained."""
        with self._asking(where):
            yield self._api

    def tag(self, image_id: str, names: tuple[str, ...]) -> None:
        """Make names mean this image."""
        there = (self._described(image_id) or {}).get("RepoTags") or []
        for name in names:
            if name not in there:
                repository, _, tag = name.rpartition(":")
                with self._asking(f"POST /images/{image_id}/tag"):
                    self._api.tag(image_id, repository, tag, force=True)

    def build(self, dockerfile: bytes, platform: str, where: str) -> str:
        """Build a Dockerfile without any other file; the image's ID. Raises EngineError with the
        last lines that the build said."""
        image, said = "", list[str]()
        with self._asking("POST /build"):
            for event in self._api.build(fileobj=io.BytesIO(dockerfile), platform=platform,
                                         rm=True, forcerm=True, decode=True):
                if "error" in event:
                    lines = [*said[-_SHOWN:], str(event["error"])]
                    raise EngineError(f"the Dockerfile does not build: {' '.join(lines).strip()}",
                                      where=where, fix="mend it; it sees no file but itself, since "
                                      "the project's files are added afterwards")
                if text := str(event.get("stream", "")).strip():
                    said.append(text)
                if "ID" in (event.get("aux") or {}):
                    image = str(event["aux"]["ID"])
        return image

    def inspect(self, name: str) -> EngineImage:
        """What the engine says of the image of that name or ID. Raises EngineError."""
        described = self._described(name)
        if described is None:
            raise EngineError(f"the Docker engine has no image {name!r}", where=self._where,
                              fix="`docker images` lists what it has; build or pull it first")
        try:
            return EngineImage(
                id=Digest.parse(described["Id"]),
                diff_ids=tuple(Digest.parse(item)
                               for item in described["RootFS"].get("Layers") or []),
                platform=f"{described['Os']}/{described['Architecture']}",
                config=dict(described["Config"] or {}),
            )
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise EngineError(f"the Docker engine describes the image in an unknown way: {error}",
                              where=f"GET /images/{name}/json at {self._where}",
                              fix="use a newer Docker engine") from None

    def saved(self, image: EngineImage) -> SavedImage:
        """The image's own bytes, streamed out of the engine and checked on the way.

        `for layer in saved.layers(): …` and then `saved.config`; see SavedImage.
        """
        return SavedImage(self._save(image.id), image.id, image.diff_ids,
                          f"image {image.id} of {self._where}")

    def _save(self, image_id: Digest) -> Iterator[bytes]:
        with self._asking(f"GET /images/{image_id}/get"):
            yield from self._api.get_image(str(image_id), chunk_size=1 << 20)

    def _described(self, name: str) -> dict[str, Any] | None:
        from docker.errors import NotFound

        with self._asking(f"GET /images/{name}/json"):
            try:
                found: dict[str, Any] = self._api.inspect_image(name)
            except NotFound:
                return None
            return found

    @cached_property
    def _has_containerd_store(self) -> bool:
        with self._asking("GET /info"):
            status = self._api.info().get("DriverStatus") or []
        return any(list(row) == ["driver-type", _CONTAINERD] for row in status)

    @cached_property
    def _api(self) -> Any:
        import docker
        from docker.context import ContextAPI

        if (not self._environ.get("DOCKER_HOST")
                and ContextAPI.get_context(self._environ.get("DOCKER_CONTEXT")) is None):
            # The SDK would take another engine than the one that was meant.
            raise EngineError("the current Docker context does not exist", where=self._where,
                              fix="`docker context ls` lists what there is; set DOCKER_CONTEXT, "
                              "or choose with `docker context use`")
        client = docker.from_env(timeout=_TIMEOUT, environment=dict(self._environ))
        return client.api

    @property
    def _where(self) -> str:
        """The engine's address, for errors."""
        return (without_credentials(self._environ.get("DOCKER_HOST", ""))
                or "the engine of the current Docker context")

    @contextlib.contextmanager
    def _asking(self, request: str) -> Iterator[None]:
        """Explain what the engine, or the way to it, has to say against a request."""
        import requests
        from docker.errors import APIError, DockerException
        from urllib3.exceptions import HTTPError

        try:
            yield
        except APIError as error:
            raise self._refused(str(error.explanation or error), request) from None
        except (DockerException, requests.RequestException, HTTPError, OSError) as error:
            raise self._unreachable(error, request) from None

    def _refused(self, reason: str, request: str) -> EngineError:
        reason = without_credentials(reason.strip())
        fix = "see the engine's log"
        if "no space left" in reason:
            fix = "make room on the engine's disk: `docker system df`, `docker system prune`"
        return EngineError(f"the Docker engine refused: {reason}",
                           where=f"{request} at {self._where}", fix=fix)

    def _unreachable(self, error: BaseException, request: str) -> EngineError:
        causes = list(_causes(error))
        if any(isinstance(cause, PermissionError) for cause in causes):
            return EngineError("no permission to use the Docker engine", where=self._where,
                               fix="add your user to the group that owns the socket (`docker`), "
                                   "or name another engine with DOCKER_HOST; `doit export` needs "
                                   "none")
        reason = without_credentials(next(
            (cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror),
            str(error)))
        refused = any(isinstance(cause, ConnectionRefusedError) for cause in causes)
        if "_api" in self.__dict__ and not refused:
            return EngineError(f"the Docker engine broke off: {reason}",
                               where=f"{request} at {self._where}",
                               fix="see the engine's log; its disk may be full: `docker system df`")
        return EngineError(f"no Docker engine answers: {reason}", where=self._where,
                           fix="start Docker, or name an engine with DOCKER_HOST or "
                               "`docker context use`; `doit export` needs none")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and whatever is wrapped in it: requests and urllib3 put causes into arguments."""
    seen: list[BaseException] = []
    left = [error]
    while left:
        one = left.pop()
        if any(one is other for other in seen):
            continue
        seen.append(one)
        yield one
        left += [item for item in (one.__cause__, one.__context__, *one.args)
                 if isinstance(item, BaseException)]
