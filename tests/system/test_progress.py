"""What may take more than two seconds is shown on a terminal under a title."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support.monorepo import STAGES, Monorepo

# Every stage of a project with the adapters of this machine, and a display that notes its titles.
_ALL_STAGES = """
import contextlib, dataclasses, json, pathlib
from toolchain import pipeline, wiring
from toolchain.chain import Chain
from toolchain.journal import Journal
from toolchain.progress import Progress
from toolchain.workspace import Workspace

titles = []

@contextlib.contextmanager
def shown(title):
    titles.append(title)
    yield Progress()

workspace = Workspace.open(pathlib.Path.cwd(), {})
journal = Journal(workspace.cache)
session = dataclasses.replace(wiring.session(workspace, journal, lambda text: None),
                              progress=shown)
project = workspace.scan(journal).projects["one"]
chain = Chain(session, project, workspace.config_for(project))
for stage in pipeline.STAGES:
    chain.bring(pipeline.stage_of(stage))
print(json.dumps(titles))
"""


def _titles(repo: Monorepo) -> list[str]:
    done = subprocess.run([sys.executable, "-c", _ALL_STAGES], cwd=repo.folder, text=True,
                          env=repo.environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    titles: list[str] = json.loads(done.stdout.splitlines()[-1])
    return titles


def test_every_stage_that_works_shows_it_and_a_second_call_shows_nothing(
    monorepo: Monorepo
) -> None:
    monorepo.add("one")
    titles = _titles(monorepo)
    slow = [f"{stage} one" for stage in STAGES if stage not in ("parse", "train")]
    assert set(slow) <= set(titles)
    # The environment is made before the entry point begins, whose own output follows.
    assert titles.index("push one") < titles.index("prepare one") < titles.index("register one")
    assert "train one" not in titles
    assert _titles(monorepo) == []
