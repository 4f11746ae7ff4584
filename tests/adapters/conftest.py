"""What the adapters' tests share: a server that answers as told, a small image, no surprises."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.adapters.double import Answer, Double, Request
from toolchain import image
from toolchain.image import Image
from toolchain.layer.archive import Entry, LayerWriter
from toolchain.store import Store


@pytest.fixture(autouse=True)
def calm(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Neither proxies nor settings of this machine's user take part."""
    home = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(
                ("PIP_", "UV_", "MLFLOW_", "DOCKER_CONFIG", "XDG_", "REQUESTS_CA_BUNDLE")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("HOME", str(home))


@pytest.fixture
def serve() -> Iterator[Callable[..., Double]]:
    """Starts servers that answer as told, until the test ends."""
    with contextlib.ExitStack() as stack:
        def start(answer: Callable[[Request], Answer], *, read_body: bool = True) -> Double:
            return stack.enter_context(Double(answer, read_body=read_body))

        yield start


@pytest.fixture
def nobody() -> Iterator[str]:
    """`127.0.0.1:port`, where nobody listens, and nobody can begin to while the test runs."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture
def make_image(store: Store) -> Callable[..., Image]:
    """Makes an image in the store of text -> one layer each."""
    def make(*texts: str) -> Image:
        layers = []
        with ThreadPoolExecutor(2) as pool:
            for text in texts:
                with LayerWriter(store, f"layer {text[:20]}", pool) as writer:
                    writer.add(Entry(path=f"usr/share/{text[:20]}", mode=0o644,
                                     data=text.encode()))
                assert writer.layer is not None
                layers.append(writer.layer)
        made = image.make(tuple(layers), "1000", "linux/amd64")
        store.put(made.config)
        return made

    return make


@pytest.fixture
def made(make_image: Callable[..., Image]) -> Image:
    return make_image("one", "two", "three" * 100_000)


@pytest.fixture
def fetched(tmp_path: Path) -> Path:
    """An empty folder for what a test brings from elsewhere."""
    folder = tmp_path / "fetched"
    folder.mkdir()
    return folder
