"""Who trains a key: settled between processes and machines by the runs of one tracking store.

A store has no lock, only runs that everybody sees as soon as they are made. So whoever wants to
train makes a run first, its claim, and looks at the others afterwards.

Rule 1: a claim begins as `wanted`. Of two that see one another, the later withdraws (the later
start, then the greater id); the earlier waits until the other has withdrawn or has become `held`.
Rule 2: one that sees no other becomes `held` and trains. Of two at once at least one sees the
other, since each looks after it can be seen: so two are never held, whatever their clocks say.
Rule 3: a run is done when its owner says so (`done`), and not when the entry point ends it, which
can happen before it fails.
Rule 4: a run whose process is gone is marked FAILED by whoever comes upon it. On its own machine
that is seen at once. From elsewhere only its heartbeat is seen: it is gone if that stands still
for `patience` seconds while it is watched, or is so old that no clock is that wrong.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from toolchain.adapters.mlflow_store import TrackingStore, experiment_ids
from toolchain.adapters.owner import Owner
from toolchain.digest import Digest
from toolchain.errors import Cancelled
from toolchain.run import KEY_TAG

if TYPE_CHECKING:
    from mlflow.entities import Run as Entity

OWNER_TAG = "toolchain.owner"
HEARTBEAT_TAG = "toolchain.heartbeat"
CLAIM_TAG = "toolchain.claim"
HOST_TAG = "toolchain.host"
WANTED, HELD, DONE = "wanted", "held", "done"

_OLD = 600  # seconds; a heartbeat of that age is of no living process, if clocks are right
_LOOK = 0.5  # seconds between two looks at a run that is waited for


class Claims:
    """The claims on training keys in one store.

    `is_given_up`: whether this process made a run and could not end it.
    """

    def __init__(self, store: TrackingStore, is_given_up: Callable[[str], bool],
                 patience: float) -> None:
        self._store = store
        self._is_given_up = is_given_up
        self._patience = patience
        self._seen: dict[str, tuple[str, float]] = {}  # run -> its heartbeat, and since when

    def look(self, key: Digest, own: str = "") -> tuple[str, list[Entity]]:
        """The newest finished run of the key, if there is one, and those that live, but for `own`:
        the first of them first, a held one before any that is only wanted. The dead are closed.
        """
        runs = self._runs(key)
        done = [run for run in runs if run.info.status == "FINISHED" and not _is_open(run)]
        living = []
        for run in runs:
            if not _is_open(run) or run.info.run_id == own:
                continue
            if self._is_dead(run):
                self._close(run.info.run_id)
            else:
                living.append(run)
        newest = max(done, key=lambda run: run.info.end_time or 0, default=None)
        return (newest.info.run_id if newest is not None else "",
                sorted(living, key=lambda run: (not _is_held(run), *_order(run))))

    def win(self, key: Digest, run_id: str) -> bool:
        """Settle a wanted claim: whether it is held now. If not, it is to be withdrawn."""
        with self._store.explained() as client:
            own = _order(client.get_run(run_id))
        while True:
            done, others = self.look(key, run_id)
            if done or any(_is_held(run) or _order(run) < own for run in others):
                return False
            if not others:
                with self._store.explained() as client:
                    client.set_tag(run_id, CLAIM_TAG, HELD)
                return True
            time.sleep(_LOOK / 5)  # later ones see this one and withdraw

    def wait(self, run: Entity, cancel: threading.Event | None = None) -> None:
        """Wait until the run is over, one way or another, or its process is gone. Raises
        Cancelled if `cancel` is set meanwhile."""
        cancel = cancel or threading.Event()
        while run.info.lifecycle_stage == "active" and _is_open(run) and not self._is_dead(run):
            if cancel.wait(_LOOK):
                raise Cancelled
            with self._store.explained() as client:
                run = client.get_run(run.info.run_id)

    def _runs(self, key: Digest) -> list[Entity]:
        # In one search: a run that changes between two would be in neither.
        asked = (f"tags.`{KEY_TAG}` = '{key}' and attributes.status != 'FAILED' "
                 "and attributes.status != 'KILLED'")
        with self._store.explained() as client:
            experiments = experiment_ids(client)
            if not experiments:
                return []
            page = client.search_runs(experiments, asked)
            found = list(page)
            while page.token:
                page = client.search_runs(experiments, asked, page_token=page.token)
                found += page
        return found

    def _is_dead(self, run: Entity) -> bool:
        run_id, tags = run.info.run_id, run.data.tags
        if self._is_given_up(run_id):
            return True
        owner, here = Owner.parse(tags.get(OWNER_TAG, "")), Owner.here()
        if owner is not None:
            alive = owner.is_alive(here)
            if alive is not None:
                return not alive
        elif tags.get(HOST_TAG) == here.host:
            return True  # of a version of this tool that held no claims
        return self._stands_still(run_id, tags.get(HEARTBEAT_TAG, ""))

    def _stands_still(self, run_id: str, beat: str) -> bool:
        now = time.monotonic()
        before, since = self._seen.setdefault(run_id, (beat, now))
        if before != beat:
            self._seen[run_id] = (beat, now)
            return False
        try:
            age = time.time() - float(beat)
        except ValueError:
            age = 0
        return now - since > self._patience or age > _OLD

    def _close(self, run_id: str) -> None:
        with self._store.explained() as client:
            client.set_terminated(run_id, "FAILED")
            client.set_tag(run_id, CLAIM_TAG, "lost: its process is gone")


def _is_open(run: Any) -> bool:
    """Whether its owner has still to say how it ended. Runs without claims say it by status."""
    if run.info.status == "FINISHED":
        return run.data.tags.get(CLAIM_TAG) in (WANTED, HELD)
    return bool(run.info.status == "RUNNING")


def _is_held(run: Any) -> bool:
    return bool(run.data.tags.get(CLAIM_TAG) != WANTED)


def _order(run: Any) -> tuple[int, str]:
    return run.info.start_time or 0, run.info.run_id
