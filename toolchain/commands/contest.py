"""One project's sweep: its trials as jobs, and what is on record of them.

Rule 1: the tracking store's finished run of a training key is the truth. A point whose key has one
is told to the sampler and not trained again, whoever trained it.
A point that was pruned is not trained again either, while the rule that has ended it holds.
Rule 2: a trial is on record with the sampler before its run is, and is settled after it. A call
that is killed in between leaves a trial that says RUNNING; the next call runs the same trial, and
finds its run if that was finished.
"""

from __future__ import annotations

import math
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolchain import run
from toolchain.chain import Chain
from toolchain.commands.entry import check, identity_of
from toolchain.digest import Digest
from toolchain.errors import Cancelled, EngineError, StoreError, ToolchainError, nearest
from toolchain.spec import command
from toolchain.stages import layer, parse, push, resolve, train
from toolchain.sweep import Sweep
from toolchain.sweep.board import Score
from toolchain.sweep.budget import Budget
from toolchain.sweep.draws import Draws
from toolchain.sweep.trial import (
    COMPLETE,
    EARLY_TAG,
    FAILED,
    PARAM_TAG,
    PARENT_TAG,
    PRUNED,
    RUNNING,
    STATE_TAG,
    SWEEP_TAG,
    Ended,
    Found,
    Member,
    Studies,
    Study,
    Trial,
    member_tag,
)
from toolchain.values import dataclass
from toolchain.workfolder import work_folder

_ELSEWHERE = ("kubernetes", "ray")  # engines whose jobs do not divide this machine's processors


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """A trial as a job. key: of the training; plan: of the stage, as its trace has it; inputs:
    what its `path` parameters name."""

    trial: Trial
    job: run.Job
    key: Digest
    plan: Any
    params: dict[str, str]
    inputs: Mapping[str, tuple[Digest, str]]


class Contest:
    """Implements toolchain.sweep.trial.Contestant for a project whose image is pushed."""

    def __init__(self, chain: Chain, sweep: Sweep, parallel: int) -> None:
        self._chain = chain
        self._sweep = sweep
        tools = chain.session.tools
        self._records = tools.records(chain.config)
        self._engine = tools.engine(chain.config)
        self._fixed = command.parse_params(chain.config.params)
        self._experiment = tools.experiment(chain.config) or chain.name
        check(chain, sweep, chain.session.say)
        self._identity = identity_of(chain, sweep)
        self._members = self._records.members(self._identity)
        self._known = {item.run_id for item in self._members}
        self._pruned = self._pruned_of(self._members)
        self._study = self._opened(tools.studies(chain.config))
        self._spec = parse.result(chain)
        self._job = run.Job(
            name=chain.name, command="", docker=train.docker_of(chain),
            environment=dict(self._spec.variables), lock=resolve.result(chain),
            project=layer.in_store(chain), image=push.assembled(chain), pushed=push.result(chain),
            timeout=train.timeout(chain.config), resources=_resources(chain, parallel))
        with chain.session.progress(f"prepare {chain.name}"):
            self._engine.prepare(self._job)
        self._prepared: dict[int, _Prepared | ToolchainError] = {}
        self._run_ids: dict[int, str] = {}  # of running trials
        self._hopeless: set[int] = set()
        self._ahead: Trial | None = None  # drawn, and not yet asked for
        self._is_changed = False
        self._draws = Draws(self._study, sweep)
        with ExitStack() as held:
            self._logs = _folder_for_logs(chain, held)
            # Last: whoever has this object ends the run.
            self._parent = self._records.begin(
                self._experiment, chain.name, self._identity, self._tags(), str(chain.folder))
            self._held = held.pop_all()

    def _opened(self, studies: Studies) -> Study:
        """The sweep's study; a new one if the runs of all its trials are gone, since who asks for
        trials wants runs. One that other machines share is left as it is."""
        name = f"{self._chain.name}-{self._identity}-{self._sweep.study}"
        study = studies.open(name, self._sweep)
        if (self._members or study.is_shared
                or not any(item.state == COMPLETE for item in study.past())):
            return study
        self._chain.session.say(f"sweep {self._chain.name}  the tracking store has none of its "
                                "runs any more; it begins anew")
        return studies.renew(name, self._sweep)

    @property
    def name(self) -> str:
        return self._chain.name

    @property
    def max_failures(self) -> int | None:
        return self._sweep.max_failures

    @property
    def budget(self) -> Budget | None:
        return self._sweep.budget

    @property
    def before(self) -> int:
        return self._draws.before

    @property
    def score(self) -> Score:
        return self._draws.score

    # Contestant

    def draw(self) -> Trial | None:
        if self._draws.is_over:  # by a trial that ended after the next one was drawn
            return None
        trial, self._ahead = self._ahead or self._drawn(), None
        return trial

    def look_ahead(self) -> None:
        # One that is never asked for is on record as cut short, and the next call begins with it.
        if self._sweep.method not in ("grid", "random"):
            self._draws.reserve()
        elif self._ahead is None:
            self._ahead = self._drawn()

    def _drawn(self) -> Trial | None:
        trial = self._draws.next()
        if trial is not None:
            self._is_changed = True
            try:
                self._prepared[trial.number] = self._as_job(trial)
            except ToolchainError as error:  # this point's alone, such as a file that is not there
                self._prepared[trial.number] = error
        return trial

    def attempt(self, trial: Trial, cancel: threading.Event) -> Ended | None:
        prepared = self._prepared[trial.number]
        if isinstance(prepared, ToolchainError):
            return Ended(state=FAILED, reason=_in_line(prepared))
        session = self._chain.session

        def waiting(who: str) -> None:
            session.say(f"sweep {self.name}  {who} has the training of trial "
                        f"{trial.number}; waiting for it")

        try:
            with session.trace.holding(train.NAME, Digest.of_json(prepared.plan), waiting, cancel):
                found = self._records.find(prepared.key)
                if found is not None:
                    return self._adopted(found, prepared)
                pruned = self._pruned.get(str(prepared.key))
                if pruned is not None:
                    return Ended(state=PRUNED, run_id=pruned, is_reused=True)
                return self._run(prepared, cancel)
        except Cancelled:
            return None

    def settle(self, trial: Trial, ended: Ended) -> None:
        self._prepared.pop(trial.number, None)
        self._run_ids.pop(trial.number, None)
        self._hopeless.discard(trial.number)
        self._study.settle(trial.number, ended)

    def hopeless(self, numbers: Sequence[int]) -> list[int]:
        if self._sweep.early is None:
            return []
        running = {number: self._run_ids[number] for number in numbers
                   if number in self._run_ids}
        histories = self._records.histories(list(running.values()), self._sweep.metric.name)
        # Before they are cancelled: an interrupt cancels too, and prunes nothing.
        self._hopeless |= {number for number, run_id in running.items()
                          if self._study.is_hopeless(number, _finite(histories[run_id]))}
        return [number for number in running if number in self._hopeless]

    # The end

    def close(self, status: str) -> None:
        """End the parent run, with the best trial and pictures if anything was added to it."""
        try:
            if self._study.is_shared and status != "KILLED":
                self._draws.count(self._study.past())
            best = self._records.best(self._identity, self._sweep.metric)
            tags, metrics = {}, {}
            if best is not None:
                value = float(best.run.metrics[self._sweep.metric.name])
                tags = {"toolchain.best.run": best.run.run_id,
                        **{f"toolchain.best.param.{name}": text
                           for name, text in {**best.run.params, **best.params}.items()}}
                metrics = {f"best_{self._sweep.metric.name}": value}
            try:
                if self._is_changed and status != "KILLED":
                    with tempfile.TemporaryDirectory(prefix="toolchain-plots-") as folder:
                        self._records.keep(self._parent.run_id, self._study.plots(
                            Path(folder), self._sweep.metric.name), "plots")
            finally:
                self._records.end(self._parent, status, tags, metrics)
        finally:
            self._held.close()

    # One trial

    def _as_job(self, trial: Trial) -> _Prepared:
        chain = self._chain
        settled = command.call(self._spec, chain.config.entry_point,
                               {**self._fixed, **trial.params}, lambda _: None)
        inputs = train.inputs_of(chain, settled)
        placed = settled.with_paths({name: text for name, (_, text) in inputs.items()})
        planned = run.plan(push.result(chain).config, chain.config.entry_point, settled,
                           {name: digest for name, (digest, _) in inputs.items()})
        job = replace(
            self._job, command=placed.command(), trial=f"{chain.name}/{trial.number}",
            environment={**self._job.environment, **placed.variables()},
            log=str(self._logs / f"{trial.number}.log"),
            key=str(Digest.of_json(planned)),
            readable=tuple(text for _, text in inputs.values() if text.startswith("/")))
        tracking = chain.session.tools.tracking_identity(chain.config)
        return _Prepared(trial=trial, job=job, key=Digest.of_json(planned),
                         plan={"run": planned, "tracking": tracking},
                         params=train.recorded(settled), inputs=inputs)

    def _run(self, prepared: _Prepared, cancel: threading.Event) -> Ended | None:
        trial, chain = prepared.trial, self._chain
        waited = False

        def waiting(text: str) -> None:
            nonlocal waited
            waited = True
            chain.session.say(f"sweep {chain.name}  {text}")

        started = self._records.start(self._parent, prepared.key, {
            **trial.tags, **self._membership(prepared), PARENT_TAG: self._parent.run_id,
            STATE_TAG: RUNNING,
            "mlflow.runName": f"{chain.name}-{trial.number}",
            "mlflow.project.entryPoint": chain.config.entry_point,
            "mlflow.project.env": self._spec.environment,
            "mlflow.project.backend": self._engine.name,
            run.IMAGE_TAG: self._job.pushed.reference,
            run.LOCK_TAG: str(self._job.lock.digest)}, waiting, cancel)
        if isinstance(started, Found):
            return self._adopted(started, prepared)
        pruned = self._pruned_of(self._records.members(self._identity)).get(
            str(prepared.key)) if waited else None
        if pruned is not None:  # by who was waited for
            self._records.withdraw(started)
            return Ended(state=PRUNED, run_id=pruned, is_reused=True)
        begun, started = started, run.outlived(started, prepared.key, self._engine, self._records)
        if started.run_id != begun.run_id:
            self._records.mark(started.run_id, {
                **self._membership(prepared), STATE_TAG: RUNNING})
        self._run_ids[trial.number] = started.run_id
        status, state, reason, changed = "FAILED", FAILED, "", ""
        try:
            outcome = self._engine.execute(replace(
                prepared.job, cancel=cancel, database=started.database,
                artifacts=started.artifacts,
                environment={**started.environment, **prepared.job.environment}))
            if outcome.code == 0 and not outcome.reason:
                changed = train.changed(chain, prepared.inputs)
                status, state = "FINISHED", FAILED if changed else COMPLETE
                reason = f"changed while it was used: {changed}" if changed else ""
            elif cancel.is_set():
                status, state = "KILLED", PRUNED if trial.number in self._hopeless else RUNNING
            else:
                reason = run.words(outcome)
        except EngineError as error:
            reason = _in_line(error)
        finally:
            tags = {STATE_TAG: state, **({run.CHANGED_TAG: changed} if changed else {}),
                    **({EARLY_TAG: self._rule} if state == PRUNED else {})}
            found = self._records.finish(started, status, prepared.params, tags,
                                         reusable=not changed)
        if state == RUNNING:
            return None
        ended = (self._ended(found) if state == COMPLETE else
                 Ended(state=state, run_id=started.run_id, reason=reason))
        if ended.state != state:  # it went well, and has no such metric
            self._records.mark(started.run_id, {STATE_TAG: ended.state})
        return self._concluded(prepared, ended)

    @property
    def _rule(self) -> str:
        """What ends a trial early; another rule might not have ended the same."""
        return self._sweep.early.words if self._sweep.early is not None else ""

    def _pruned_of(self, members: Sequence[Member]) -> dict[str, str]:
        """Runs that were pruned by the rule that holds, by their keys."""
        return {item.key: item.run_id for item in members
                if item.is_pruned and self._rule and item.early == self._rule}

    def _concluded(self, prepared: _Prepared, ended: Ended) -> Ended:
        """The end of a trial that was run, with what is to be kept of it."""
        log = Path(prepared.job.log)
        if ended.state == FAILED and log.exists():
            self._records.keep(ended.run_id, [log])
        log.unlink(missing_ok=True)
        if self._sweep.early is None:
            return ended
        name = self._sweep.metric.name
        history = self._records.histories([ended.run_id], name)[ended.run_id]
        return replace(ended, history=tuple(_finite(history)))

    def _membership(self, prepared: _Prepared) -> dict[str, str]:
        """What makes a run a trial of this sweep, with the values that it has there."""
        return {member_tag(self._identity): "1",
                **{f"{PARAM_TAG}{name}": prepared.params[name] for name in prepared.trial.params}}

    def _adopted(self, found: Found, prepared: _Prepared) -> Ended:
        """A run that somebody else has made is a trial of this sweep too."""
        if found.run_id not in self._known:
            self._records.mark(found.run_id, self._membership(prepared))
        return self._ended(found, is_reused=True)

    def _ended(self, done: Found, *, is_reused: bool = False) -> Ended:
        name = self._sweep.metric.name
        if name not in done.metrics:
            there = ", ".join(done.metrics) or "none"
            return Ended(state=FAILED, run_id=done.run_id, is_reused=is_reused, reason=(
                f"no metric {name!r} was logged{nearest(name, done.metrics)}; logged: {there}"))
        value = float(done.metrics[name])
        if not math.isfinite(value):
            return Ended(state=FAILED, run_id=done.run_id, is_reused=is_reused,
                         reason=f"metric {name} is {done.metrics[name]}")
        return Ended(state=COMPLETE, value=value, run_id=done.run_id, is_reused=is_reused)

    def _tags(self) -> dict[str, str]:
        sweep = self._sweep
        return {
            "mlflow.runName": f"sweep {self.name}", "mlflow.project.entryPoint":
            self._chain.config.entry_point, run.IMAGE_TAG: push.result(self._chain).reference,
            f"{SWEEP_TAG}.method": sweep.method, f"{SWEEP_TAG}.metric": sweep.metric.name,
            f"{SWEEP_TAG}.goal": sweep.metric.goal,
        }


def _resources(chain: Chain, parallel: int) -> run.Resources:
    """What the settings ask for; without it, trials that run at once divide the processors."""
    asked = train.resources(chain.config)
    if asked.cpus or parallel == 1 or chain.config.engine in _ELSEWHERE:
        return asked
    return replace(asked, threads=max(1, int(chain.session.tools.processors() / parallel)))


def _folder_for_logs(chain: Chain, held: ExitStack) -> Path:
    """Gone when `held` is closed: what is worth keeping of a log is kept with the trial's run."""
    folder = chain.session.workspace.cache / "work"
    try:
        return held.enter_context(work_folder(folder))
    except OSError as error:
        raise StoreError(f"the logs of trials cannot be written: {error.strerror}",
                         where=str(folder),
                         fix="make the cache folder writable, or free some space") from None


def _in_line(error: ToolchainError) -> str:
    return "; ".join(filter(None, (error.what, error.where, error.fix)))


def _finite(history: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    return [(step, value) for step, value in history if math.isfinite(value)]
