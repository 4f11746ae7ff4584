"""Layers -> Image: config and manifest bytes; pure.

Source: OCI image-spec 1.1, config.md and manifest.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolchain.digest import Digest, canonical_json
from toolchain.layer import PREFIX, PROJECT_FOLDER, RUNNER_FOLDER, Layer
from toolchain.values import dataclass

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LABEL = "toolchain.layer"  # annotation of a layer's descriptor
_SCHEMA = 1
CREATED = "1980-01-02T00:00:00Z"  # as the files in the layers
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image: its layers in order, the bytes of its config and of its manifest."""

    layers: tuple[Layer, ...]
    config: bytes
    manifest: bytes

    @property
    def digest(self) -> Digest:
        return Digest.of(self.manifest)

    @property
    def config_digest(self) -> Digest:
        return Digest.of(self.config)


def plan(base: dict[str, Any], project: dict[str, Any], user: str, platform: str,
         variables: Mapping[str, str] | None = None,
         command: tuple[str, ...] = ()) -> dict[str, Any]:
    """What an image is made of, known before any layer is built; its digest is the image's tag.

    `variables` are what the project sets in the environment of every entry point; `command` is
    what the image runs instead of them.
    """
    return {
        "schema": _SCHEMA,
        "base": Digest.of_json(base).hex,
        "project": Digest.of_json(project).hex,
        "config": _runtime(user, (), variables, command),
        "platform": platform,
    }


def make(layers: tuple[Layer, ...], user: str, platform: str,
         annotations: Mapping[str, str] | None = None, *,
         environment: tuple[str, ...] = (), labels: Mapping[str, str] | None = None,
         variables: Mapping[str, str] | None = None, command: tuple[str, ...] = ()) -> Image:
    """Assemble an image. `platform` is `os/architecture[/variant]`.

    `annotations` are the manifest's. `environment` (`NAME=value`) and `labels` are those of the
    base image.
    """
    system, architecture, variant = (*platform.split("/"), "")[:3]
    config = canonical_json({
        "architecture": architecture,
        "os": system,
        **({"variant": variant} if variant else {}),
        "created": CREATED,
        "config": {**_runtime(user, environment, variables, command),
                   **({"Labels": dict(labels)} if labels else {})},
        "rootfs": {"type": "layers", "diff_ids": [str(layer.diff_id) for layer in layers]},
        "history": [{"created": CREATED, "created_by": layer.label} for layer in layers],
    })
    manifest = canonical_json({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": str(Digest.of(config)), "size": len(config)},
        "layers": [
            {"mediaType": layer.media_type, "digest": str(layer.digest), "size": layer.size,
             "annotations": {LABEL: layer.label}}
            for layer in layers
        ],
        **({"annotations": dict(annotations)} if annotations else {}),
    })
    return Image(layers=layers, config=config, manifest=manifest)


def from_bytes(manifest: bytes, config: bytes) -> Image:
    """Read an image that this tool made. Raises ValueError or KeyError for anything else."""
    import json

    parsed = json.loads(manifest)
    if parsed.get("mediaType") != MANIFEST:
        raise ValueError("not an OCI image manifest")
    if parsed["config"]["digest"] != str(Digest.of(config)):
        raise ValueError("the config is not the one that the manifest names")
    diff_ids = json.loads(config)["rootfs"]["diff_ids"]
    layers = tuple(
        Layer(digest=Digest.parse(item["digest"]), diff_id=Digest.parse(diff_id),
              size=item["size"], media_type=item["mediaType"],
              label=item["annotations"][LABEL])
        for item, diff_id in zip(parsed["layers"], diff_ids, strict=True)
    )
    return Image(layers=layers, config=config, manifest=manifest)


def index(images: Mapping[str, bytes]) -> bytes:
    """An image index (image-index.md) of platform -> manifest, in order.

    It has the annotations that all of them have; the digest of a base image is none, where every
    platform has another.
    """
    import json

    given = [json.loads(manifest).get("annotations") or {} for manifest in images.values()]
    common = {name: value for name, value in given[0].items()
              if all(other.get(name) == value for other in given[1:])}
    return canonical_json({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [
            {"mediaType": MANIFEST, "digest": str(Digest.of(manifest)), "size": len(manifest),
             "platform": _platform(platform)}
            for platform, manifest in images.items()
        ],
        **({"annotations": common} if common else {}),
    })


def _platform(platform: str) -> dict[str, str]:
    return dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False))


def _runtime(user: str, environment: tuple[str, ...] = (),
             own: Mapping[str, str] | None = None, command: tuple[str, ...] = ()
             ) -> dict[str, Any]:
    inherited = dict(item.partition("=")[::2] for item in environment)
    variables = {
        **inherited, "PATH": f"/{PREFIX}/bin:{inherited.get('PATH') or _PATH}",
        "VIRTUAL_ENV": f"/{PREFIX}", "LANG": inherited.get("LANG") or "C.UTF-8",
        "PYTHONUNBUFFERED": "1", **(own or {}),
    }
    return {
        "User": user,
        "WorkingDir": f"/{PROJECT_FOLDER}",
        # Isolated: what is set for the job's Python, or starts with its packages, is not for it.
        **({"Entrypoint": list(command)} if command else
           {"Entrypoint": [f"/{PREFIX}/bin/python", "-IS", f"/{RUNNER_FOLDER}"], "Cmd": ["run"]}),
        "Env": [f"{name}={value}" for name, value in variables.items()],
    }


def media_type(manifest: bytes) -> str:
    """What a manifest or index says that it is. Raises ValueError if it does not."""
    import json

    parsed = json.loads(manifest)
    own = parsed.get("mediaType") if isinstance(parsed, dict) else None
    if not isinstance(own, str) or not own:
        raise ValueError("a manifest that does not say its media type")
    return own
