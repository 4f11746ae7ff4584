"""Pushed -> the container engine of this machine."""

from __future__ import annotations

from toolchain import load
from toolchain.chain import Chain
from toolchain.commands.pushed import fetcher, image_of, names_of
from toolchain.stages import size

NAME = "load"


def run(chain: Chain) -> tuple[str, str]:
    """Load the image; words for people, and how to run it."""
    chain = chain.here
    image, names = image_of(chain), names_of(chain)
    engine = chain.session.tools.image_engine()
    with chain.session.progress(f"{NAME} {chain.name}") as progress:
        done = load.make(image, names, engine, fetcher(chain, progress), progress)
    words = (f"already there as {names[0]}" if done.there else
             f"sent {done.layers} of {len(image.layers)} layers ({size(done.size)}) as {names[0]}")
    return words, f"run it with `docker run --rm -it {names[0]}`"
