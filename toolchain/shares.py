"""Resources -> what a job may use of this machine: whether it is there, and how many threads."""

from __future__ import annotations

from toolchain.errors import EngineError
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


def check(resources: Resources, cpus: float, memory: int, where: str) -> None:
    """Raises EngineError for what this machine does not have at all: it has so many processors and
    bytes of memory, zero bytes are unknown."""
    if resources.cpus > cpus + _TINY:
        raise EngineError(
            f"{resources.cpus:g} processors were asked for and there are {cpus:g}",
            where=where, fix="ask for fewer (cpus=…), or use a larger machine")
    if memory and resources.memory > memory:
        raise EngineError(
            f"{_shown(resources.memory)} of memory were asked for and there are {_shown(memory)}",
            where=where, fix="ask for less (memory=…), or use a larger machine")


def _shown(size: int) -> str:
    return f"{size / 2**30:.3g} GiB" if size >= 2**30 else f"{size / 2**20:.3g} MiB"
