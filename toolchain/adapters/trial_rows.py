"""What a sweep asks of a tracking store that is a sqlite file: one statement each, however many
trials it has.

MLflow's client takes ten times as long to say the same: of each run that it finds it reads all
tags, params and metrics.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from toolchain.adapters.claims import CLAIM_TAG, HELD, WANTED
from toolchain.digest import Digest
from toolchain.run import KEY_TAG
from toolchain.sweep import Metric
from toolchain.sweep.trial import EARLY_TAG, PARAM_TAG, PRUNED, STATE_TAG, Member, member_tag

Ask = Callable[[str, tuple[Any, ...]], list[Any]]

_RUNS = ("from tags t join runs r on r.run_uuid = t.run_uuid join experiments e on "
         "e.experiment_id = r.experiment_id")
_SEEN = ("where t.key=? and t.value=? and r.lifecycle_stage='active' and "
         "e.lifecycle_stage='active'")
_CLAIMED = ("exists (select 1 from tags c where c.run_uuid = r.run_uuid and c.key=? "
            "and c.value in (?, ?))")
_OPEN = (CLAIM_TAG, WANTED, HELD)
_KEY = "join tags k on k.run_uuid = r.run_uuid and k.key=?"
_FINISHED = (f"select r.run_uuid {_RUNS} {_SEEN} and r.status='FINISHED' and not {_CLAIMED} "
             "order by r.end_time desc limit 1")
_OTHERS = (f"select 1 {_RUNS} {_SEEN} and r.run_uuid != ? and r.status in "
           "('RUNNING', 'FINISHED') limit 1")
_MEMBERS = (f"select r.run_uuid, k.value, r.status='KILLED', p.value {_RUNS} left {_KEY} "
            "left join tags s on s.run_uuid = r.run_uuid and s.key=? "
            f"left join tags p on p.run_uuid = r.run_uuid and p.key=? {_SEEN} and "
            f"(r.status='FINISHED' and not {_CLAIMED} or r.status='KILLED' and s.value=?) "
            "order by r.start_time")
# MLflow's databases have the largest number for infinity.
_BEST = (f"select r.run_uuid, k.value {_RUNS} {_KEY} join latest_metrics m on "
         f"m.run_uuid = r.run_uuid and m.key=? {_SEEN} and r.status='FINISHED' and not {_CLAIMED} "
         "and not m.is_nan and abs(m.value) < ? order by m.value {}, r.start_time limit 1")


def finished(ask: Ask, key: Digest) -> str:
    """The newest finished run of a training key; empty if there is none."""
    rows = ask(_FINISHED, (KEY_TAG, str(key), *_OPEN))
    return rows[0][0] if rows else ""


def has_others(ask: Ask, key: Digest, run_id: str) -> bool:
    """Whether another run of the key is there, under way or finished."""
    return bool(ask(_OTHERS, (KEY_TAG, str(key), run_id)))


def members(ask: Ask, identity: str) -> list[Member]:
    """The trials of a sweep that are finished or were pruned."""
    rows = ask(_MEMBERS, (KEY_TAG, STATE_TAG, EARLY_TAG, member_tag(identity), "1", *_OPEN,
                          PRUNED))
    return [Member(run_id=run_id, key=key or "", is_pruned=bool(is_killed),
                   early=early or "") for run_id, key, is_killed, early in rows]


def given(ask: Ask, run_id: str) -> dict[str, str]:
    """What a sweep has given to a trial, by name."""
    return params(dict(ask("select key, value from tags where run_uuid=?", (run_id,))))


def params(tags: Mapping[str, str]) -> dict[str, str]:
    """The parameters among a trial's tags."""
    return {name.removeprefix(PARAM_TAG): text for name, text in tags.items()
            if name.startswith(PARAM_TAG)}


def best(ask: Ask, identity: str, metric: Metric) -> tuple[str, Digest] | None:
    """The best finished trial's run and training key."""
    order = "asc" if metric.goal == "minimize" else "desc"
    rows = ask(_BEST.format(order), (KEY_TAG, metric.name, member_tag(identity), "1", *_OPEN,
                                     sys.float_info.max))
    return (rows[0][0], Digest.parse(rows[0][1])) if rows else None
