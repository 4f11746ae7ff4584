"""Optuna as sampler, pruner and record of trials, in sqlite or PostgreSQL.

Points of a grid are not drawn by Optuna's own grid sampler, which forgets a grid that grows: they
are put on record as running trials, one write each.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.adapters.study_database import StudyDatabase
from toolchain.sweep import Sweep
from toolchain.sweep.space import Parameter, Value
from toolchain.sweep.trial import COMPLETE, FAILED, PARAM_TAG, PRUNED, Ended, Past, Trial
from toolchain.trace import Trace

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import Trial as Asked

_REASON = "toolchain.reason"
_STARTUP = 10  # random trials before TPE learns from them, as by its default


class OptunaStudies:
    """Studies of one database."""

    def __init__(self, uri: str, trace: Trace) -> None:
        self._database = StudyDatabase(uri, trace)

    def open(self, name: str, sweep: Sweep) -> OptunaStudy:
        with self._database.explained():
            import optuna

            optuna.logging.set_verbosity(optuna.logging.WARNING)
            warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(
                storage=self._database.storage, study_name=name,
                direction="minimize" if sweep.metric.goal == "minimize" else "maximize",
                load_if_exists=True)
            if not self._database.is_shared:
                from toolchain.adapters.known_trials import KnownTrials

                # On one machine one process at a time runs a project's sweep.
                study = optuna.load_study(
                    study_name=name, storage=KnownTrials(self._database.storage, name))
            count = len(study.get_trials(deepcopy=False))
            study.sampler = _sampler(sweep, count)
            study.pruner = _pruner(sweep)
            return OptunaStudy(study, self._database, sweep)

    def renew(self, name: str, sweep: Sweep) -> OptunaStudy:
        with self._database.explained():
            import optuna

            optuna.delete_study(study_name=name, storage=self._database.storage)
        return self.open(name, sweep)


class OptunaStudy:
    """Implements toolchain.sweep.trial.Study."""

    def __init__(self, study: Study, database: StudyDatabase, sweep: Sweep) -> None:
        self._study = study
        self._database = database
        self._storage = study._storage
        self._sweep = sweep
        self._distributions = {item.name: _distribution(item) for item in sweep.space.parameters}
        self._ids: dict[int, int] = {}  # of this process's running trials
        self._reported: dict[int, int] = {}  # of running trials: how much of its history
        self._reserved: Asked | None = None

    @property
    def is_shared(self) -> bool:
        return self._database.is_shared

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        with self._database.explained(), self._database.alone(self._study.study_name):
            yield

    def past(self) -> list[Past]:
        with self._database.explained():
            return [Past(number=item.number, params=self._texts(item.params),
                         state=item.state.name, value=item.value)
                    for item in self._study.get_trials(deepcopy=False)]

    def reserve(self) -> None:
        with self._database.explained():
            if self._reserved is None:
                self._reserved = self._begun()

    def draw(self) -> Trial:
        with self._database.explained():
            if self.is_shared and self._sweep.seed is not None:
                # Several machines that count from one seed would draw the same points.
                self._study.sampler = _sampler(
                    self._sweep, len(self._study.get_trials(deepcopy=False)))
            trial, self._reserved = self._reserved or self._begun(), None
            self._study._thread_local.cached_all_trials = None
            return self._trial(trial.number, self._suggested(trial))

    def _begun(self) -> Asked:
        """As `ask` does, but for trials that somebody else has put in a queue: nobody does, and to
        look costs as much as all the rest."""
        from optuna.trial import Trial as Asked

        trial = Asked(self._study, self._storage.create_new_trial(self._study._study_id))
        self._ids[trial.number] = trial._trial_id
        return trial

    def resume(self, number: int) -> Trial:
        from optuna.trial import Trial as Asked

        with self._database.explained():
            self._ids[number] = self._id(number)
            asked = Asked(self._study, self._ids[number])
            # It may have been cut short between two of its parameters.
            return self._trial(number, self._suggested(asked))

    def add(self, params: Mapping[str, str]) -> Trial:
        from optuna.trial import TrialState, create_trial

        values = {item.name: _value(item, params[item.name])
                  for item in self._sweep.space.parameters}
        with self._database.explained():
            template = create_trial(state=TrialState.RUNNING, params=values,
                                    distributions=self._distributions)
            made = self._storage.create_new_trial(self._study._study_id, template)
            number = self._storage.get_trial_number_from_id(made)
            self._ids[number] = made
            return self._trial(number, values)

    def is_hopeless(self, number: int, history: Sequence[tuple[int, float]]) -> bool:
        with self._database.explained():
            if not self._report(number, history):
                return False
            trial = self._storage.get_trial(self._id(number))
            return bool(self._study.pruner.prune(self._study, trial))

    def settle(self, number: int, ended: Ended) -> None:
        from optuna.trial import TrialState

        with self._database.explained():
            if self._sweep.early is not None and ended.history:
                self._report(number, ended.history)
            self._reported.pop(number, None)
            known = self._ids.pop(number, None)
            if ended.state == COMPLETE and known is not None:
                # No sampler here wants to hear of it at once, and `tell` costs three more looks at
                # the database.
                with contextlib.suppress(RuntimeError):  # it was settled before
                    self._storage.set_trial_state_values(known, TrialState.COMPLETE,
                                                         [ended.value or 0.0])
                return
            if ended.state == COMPLETE:
                self._study.tell(number, ended.value, skip_if_finished=True)
                return
            if ended.state == FAILED and ended.reason:
                with contextlib.suppress(RuntimeError):  # it was settled before
                    self._storage.set_trial_user_attr(self._id(number), _REASON, ended.reason)
            state = {PRUNED: TrialState.PRUNED, FAILED: TrialState.FAIL}[ended.state]
            self._study.tell(number, state=state, skip_if_finished=True)

    def plots(self, folder: Path, metric: str) -> Sequence[Path]:
        from toolchain.adapters import plots

        return plots.write(self._study, folder, metric)

    def _report(self, number: int, history: Sequence[tuple[int, float]]) -> bool:
        """Tell the pruner what it has not yet heard; whether there was anything."""
        known = self._reported.get(number, 0)
        for step, value in history[known:]:
            self._storage.set_trial_intermediate_value(self._id(number), step, value)
        self._reported[number] = len(history)
        return len(history) > known

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(
            self._study._study_id, number)

    def _trial(self, number: int, values: Mapping[str, Value]) -> Trial:
        texts = self._texts(values)
        return Trial(number=number, params=texts, tags={
            "optuna.number": str(number), "optuna.study": self._study.study_name,
            **{f"{PARAM_TAG}{name}": text for name, text in texts.items()},
            **{f"optuna.distribution.{name}": str(item)
               for name, item in self._distributions.items()},
        })

    def _suggested(self, asked: Asked) -> dict[str, Value]:
        return {name: _suggested(asked, name, item)
                for name, item in self._distributions.items()}

    def _texts(self, values: Mapping[str, Value]) -> dict[str, str]:
        return {item.name: _text(item, values[item.name])
                for item in self._sweep.space.parameters if item.name in values}


def _sampler(sweep: Sweep, count: int) -> Any:
    from optuna import samplers

    # A sampler that begins again with the same seed would draw the same points again.
    seed = None if sweep.seed is None else sweep.seed + count
    if sweep.method == "bayes":
        return samplers.TPESampler(seed=seed, n_startup_trials=_STARTUP,
                                   constant_liar=sweep.parallel > 1)
    if sweep.method == "cmaes":
        import cmaes  # type: ignore[import-untyped]  # noqa: F401

        return samplers.CmaEsSampler(seed=seed)
    return samplers.RandomSampler(seed=seed)


def _pruner(sweep: Sweep) -> Any:
    from optuna import pruners

    early = sweep.early
    if early is None:
        return pruners.NopPruner()
    if early.type == "median":
        return pruners.MedianPruner(n_startup_trials=early.startup, n_warmup_steps=early.low)
    return pruners.HyperbandPruner(min_resource=early.low or 1,
                                   max_resource=early.high or "auto", reduction_factor=early.eta)


def _distribution(item: Parameter) -> BaseDistribution:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if item.choices:
        return CategoricalDistribution(item.numbers)
    if item.whole:
        # Optuna rounds a range's end down to what steps can reach, and says so.
        is_stepped = item.step and not item.log
        return IntDistribution(int(item.low), int(item.last if is_stepped else item.high),
                               log=item.log, step=int(item.step) if is_stepped else 1)
    # It refuses a point that is a little beside a step, and counts a step less if the end is. Such
    # a range is drawn without steps: `text` puts what is drawn on one.
    if item.step and not item.log and item.is_exact:
        return FloatDistribution(item.low, float(item.last), step=item.step)
    return FloatDistribution(item.low, item.high, log=item.log)


def _suggested(asked: Asked, name: str, found: BaseDistribution) -> Value:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if isinstance(found, CategoricalDistribution):
        value: Value = asked.suggest_categorical(name, found.choices)  # type: ignore[assignment]
        return value
    if isinstance(found, IntDistribution):
        return asked.suggest_int(name, found.low, found.high, log=found.log, step=found.step)
    assert isinstance(found, FloatDistribution)
    return asked.suggest_float(name, found.low, found.high, log=found.log, step=found.step)


def _text(item: Parameter, value: Value) -> str:
    return item.choices[item.numbers.index(value)] if item.choices else item.text(value)


def _value(item: Parameter, text: str) -> Value:
    if item.choices:
        return item.numbers[item.choices.index(text)]
    return int(text) if item.whole else float(text)
