"""Fixtures that more than one test module uses."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.support.debs import Mirror
from tests.support.files import Server
from tests.support.monorepo import Monorepo, default_wheels
from toolchain.journal import Journal
from toolchain.store import Store
from toolchain.trace import Trace

# How long an example takes says more of what else the machine does than of the code.
hypothesis.settings.register_profile("toolchain", deadline=None)
hypothesis.settings.load_profile("toolchain")
# Meant for this run of pytest, and for none that a test starts.
os.environ.pop("PYTEST_ADDOPTS", None)
# A shell that starts the tests in the background has SIGINT ignored, and so would every process
# that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What asks a cluster comes last: it may have to be built first."""
    items.sort(key=lambda item: item.get_closest_marker("kubernetes") is not None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Who runs what, where several processes share the tests."""
    from tests.support.sharing import Sharing

    return Sharing(config, log)


@pytest.fixture(scope="session")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Mirror:
    """A tiny signed Debian mirror."""
    made = Mirror(tmp_path_factory.mktemp("mirror"))
    made.publish()
    return made


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny wheels, the only index of a test's monorepo."""
    folder = tmp_path_factory.mktemp("wheels")
    default_wheels(folder)
    return folder


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of an empty tracking store; making one takes seconds, copying it does not."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments(max_results=1)
    return path


@pytest.fixture
def another_monorepo(tmp_path: Path, mirror: Mirror, wheels: Path, empty_store: Path
                     ) -> Callable[[str], Monorepo]:
    """Makes workspaces, each with an empty tracking store."""
    def make(name: str) -> Monorepo:
        repo = Monorepo(tmp_path / name, mirror, wheels)
        shutil.copy(empty_store, repo.database)
        return repo

    return make


@pytest.fixture
def monorepo(another_monorepo: Callable[[str], Monorepo]) -> Monorepo:
    return another_monorepo("workspace")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Server]:
    """A web server of an empty folder."""
    folder = tmp_path / "served"
    folder.mkdir()
    with Server(folder) as running:
        yield running


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "cache")


@pytest.fixture
def store(tmp_path: Path, journal: Journal) -> Store:
    return Store(tmp_path / "cache/blobs/sha256", tmp_path / "cache/quarantine", journal)


@pytest.fixture
def trace(tmp_path: Path, journal: Journal) -> Trace:
    return Trace(tmp_path / "cache", journal)
