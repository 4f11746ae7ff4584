"""A study that nobody else writes to -> Optuna's view of it in memory, each write put on record.

Optuna reads every open trial anew from its database whenever it draws or is told something, which
costs more than the drawing. What one process alone writes it need not read twice.

Rule: the record first, then the memory; so what cannot be recorded is not known either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from optuna.storages import InMemoryStorage

from toolchain.errors import SweepError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, TrialState


class KnownTrials(InMemoryStorage):
    """One study of a database, by its name there, whose trials are read once, at the beginning."""

    def __init__(self, record: BaseStorage, name: str) -> None:
        super().__init__()
        self._record = record
        self._recorded_study = record.get_study_id_from_name(name)
        self._recorded: list[int] = []  # ids in the record, by ids here
        study = self.create_new_study(record.get_study_directions(self._recorded_study), name)
        for trial in record.get_all_trials(self._recorded_study, deepcopy=False):
            super().create_new_trial(study, trial)
            self._recorded.append(trial._trial_id)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        made = self._record.create_new_trial(self._recorded_study, template_trial)
        if self._record.get_trial_number_from_id(made) != len(self._recorded):
            raise SweepError(
                "another process draws points from the same study", where="sweep",
                fix="run a sweep whose record of trials is a file from one cache at a time, or "
                    "have several machines share one in PostgreSQL: sweep.storage")
        self._recorded.append(made)
        return super().create_new_trial(study_id, template_trial)

    def set_trial_param(self, trial_id: int, param_name: str, param_value_internal: float,
                        distribution: BaseDistribution) -> None:
        self._record.set_trial_param(self._recorded[trial_id], param_name, param_value_internal,
                                     distribution)
        super().set_trial_param(trial_id, param_name, param_value_internal, distribution)

    def set_trial_state_values(self, trial_id: int, state: TrialState,
                               values: Sequence[float] | None = None) -> bool:
        done = self._record.set_trial_state_values(self._recorded[trial_id], state, values)
        return super().set_trial_state_values(trial_id, state, values) and done

    def set_trial_intermediate_value(self, trial_id: int, step: int,
                                     intermediate_value: float) -> None:
        self._record.set_trial_intermediate_value(self._recorded[trial_id], step,
                                                  intermediate_value)
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._record.set_trial_user_attr(self._recorded[trial_id], key, value)
        super().set_trial_user_attr(trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._record.set_trial_system_attr(self._recorded[trial_id], key, value)
        super().set_trial_system_attr(trial_id, key, value)
