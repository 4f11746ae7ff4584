"""What a project's image would be made of, and whether a registry has it already.

Both are known before a layer is built: from the locks and the project's files alone.
"""

from __future__ import annotations

from typing import Any

from toolchain import image, layer, push
from toolchain.chain import Chain
from toolchain.digest import Digest
from toolchain.stages import parse, resolve

USER = str(layer.USER_ID)


def base_plan(chain: Chain) -> Any:
    from toolchain.layer.compression import compression

    return layer.base_plan(resolve.result(chain), resolve.debian_packages(chain),
                           compression(chain.config.image_compression).identity,
                           chain.config.image_bytecode)


def layer_plan(chain: Chain) -> Any:
    from toolchain.layer.compression import compression
    from toolchain.layer.project import plan

    def memo(question: Any, answer: Any) -> Any:
        key = Digest.of_json(question)
        known = chain.session.trace.get("ignore", key)
        if known is None:
            known = answer()
            chain.session.trace.note("ignore", key, known)
        return known

    planned = plan(chain.tree, parse.result(chain).files, memo,
                   compression(chain.config.image_compression))
    chain.tree.remember()
    return planned


def image_plan(chain: Chain) -> Any:
    return image.plan(base_plan(chain), layer_plan(chain), USER, chain.config.image_platform)


def tag(chain: Chain) -> str:
    return Digest.of_json(image_plan(chain)).hex


def published(chain: Chain) -> image.Image | None:
    """The image, if the registry has it whole; then its layers need not be here."""
    registry = chain.session.tools.registry(chain.config)
    found = push.find(registry, tag(chain))
    return found if found is not None and registry.still_has(found.digest) else None


def are_here(chain: Chain, layers: tuple[layer.Layer, ...]) -> bool:
    return all(chain.session.store.has(item.digest) for item in layers)
