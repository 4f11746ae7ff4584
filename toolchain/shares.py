"""Resources -> Share: the part of this machine that a trial has while others run beside it.

Rule 1: first come, first served. A trial that needs much waits at the head of the queue, and none
that needs less overtakes it; otherwise a large one would wait for ever beside many small ones.
Rule 2: a trial that asks for no processors has its part of all of them, `cpus / parallel`. One
that asks for no memory is not counted: nobody knows what it will need.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from toolchain.errors import ConfigError, EngineError
from toolchain.run import Resources

# What numeric libraries ask how many threads to start: OpenMP (LightGBM, XGBoost, PyTorch,
# scikit-learn), their BLAS, joblib's processes, TensorFlow, numba, polars, Rust's rayon, and from
# Python 3.13 on os.cpu_count itself.
THREADS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS", "LOKY_MAX_CPU_COUNT",
    "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "NUMBA_NUM_THREADS",
    "POLARS_MAX_THREADS", "RAYON_NUM_THREADS", "PYTHON_CPU_COUNT",
)
_TINY = 1e-6  # a third and two thirds are one


def thread_variables(count: float) -> dict[str, str]:
    """Variables that keep a job's libraries to so many processors, at least one."""
    return dict.fromkeys(THREADS, str(max(1, int(count + _TINY))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one trial has. `cpus` may be a fraction; `memory`: bytes, zero if it is not counted."""

    cpus: float
    memory: int
    asked: Resources

    @property
    def threads(self) -> int:
        return max(1, int(self.cpus + _TINY))

    @property
    def resources(self) -> Resources:
        """For the trial's Job: what was asked for, and how many threads it may start."""
        return replace(self.asked, threads=self.threads)

    def variables(self) -> dict[str, str]:
        """The threads as environment variables. What a user has set should win over them."""
        return thread_variables(self.threads)


class Shares:
    """A machine that trials of one process share; threads may ask at once.

    cpus, memory: what there is (zero memory: unknown, not counted); parallel: how many trials may
    run at once. Raises ConfigError if that is less than one.
    """

    def __init__(self, cpus: float, memory: int, parallel: int) -> None:
        if parallel < 1:
            raise ConfigError(f"parallel is at least 1, not {parallel}", where="parallel",
                              fix="parallel=1 runs one trial after another")
        self._cpus = cpus
        self._memory = memory
        self._parallel = parallel
        self._queue: deque[Share] = deque()
        self._held: list[Share] = []
        self._changed = threading.Condition()

    def check(self, resources: Resources, where: str = "") -> None:
        """Raises EngineError for what this machine does not have at all."""
        share = self._share(resources)
        if share.cpus > self._cpus + _TINY:
            raise EngineError(
                f"{share.cpus:g} processors were asked for and there are {self._cpus:g}",
                where=where or "cpus", fix="ask for fewer (cpus=…), or use a larger machine")
        if self._memory and share.memory > self._memory:
            raise EngineError(
                f"{_shown(share.memory)} of memory were asked for and there are "
                f"{_shown(self._memory)}", where=where or "memory",
                fix="ask for less (memory=…), or use a larger machine")

    @contextlib.contextmanager
    def take(self, resources: Resources) -> Iterator[Share]:
        """Wait until there is enough, and have it in the block.

        Raises EngineError at once for what this machine does not have at all.
        """
        self.check(resources)
        share = self._share(resources)
        with self._changed:
            self._queue.append(share)
            try:
                # `is`: two trials may ask for the same.
                self._changed.wait_for(lambda: self._queue[0] is share and self._is_free(share))
                self._held.append(share)
            finally:
                _drop(self._queue, share)  # also if the wait was interrupted
                self._changed.notify_all()
        try:
            yield share
        finally:
            with self._changed:
                _drop(self._held, share)
                self._changed.notify_all()

    def _share(self, resources: Resources) -> Share:
        return Share(cpus=resources.cpus or self._cpus / self._parallel,
                     memory=resources.memory, asked=resources)

    def _is_free(self, share: Share) -> bool:
        if len(self._held) >= self._parallel:
            return False
        cpus = sum(held.cpus for held in self._held) + share.cpus
        memory = sum(held.memory for held in self._held) + share.memory
        return cpus <= self._cpus + _TINY and (not self._memory or memory <= self._memory)


def _drop(shares: deque[Share] | list[Share], share: Share) -> None:
    for index, item in enumerate(shares):
        if item is share:
            del shares[index]
            return


def _shown(size: int) -> str:
    return f"{size / 2**30:.3g} GiB" if size >= 2**30 else f"{size / 2**20:.3g} MiB"
