"""How much of this machine is ours: processors and memory, also within a container."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_PROC = Path("/proc")


def cpus(groups: Path = _GROUPS, proc: Path = _PROC) -> float:
    """Processors that this process may use: its affinity, or a cgroup's quota if that is less."""
    found = float(len(os.sched_getaffinity(0)))
    for folder in _folders(groups, proc, "cpu"):
        quota, period = _quota(folder)
        if quota > 0 and period > 0:
            found = min(found, quota / period)
    return found


def memory(groups: Path = _GROUPS, proc: Path = _PROC) -> int:
    """Bytes of memory: the machine's, or a cgroup's limit if that is less; zero where nothing says
    it. What is in use counts too: a training that has it may end, and is waited for."""
    found = [_total(proc / "meminfo")]
    for folder in _folders(groups, proc, "memory"):
        found.append(_number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes"))
    return min(filter(None, found), default=0)


def _folders(groups: Path, proc: Path, controller: str) -> Iterator[Path]:
    """Our cgroups and those above them, of both versions (cgroups(7)). In a container the file
    names a path that is not to be seen there; then what is mounted is ours."""
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for root in ((groups / controllers, groups / controller) if controllers
                     else (groups, groups / "unified")):
            folder = root / path.lstrip("/")
            while folder != root:
                yield folder
                folder = folder.parent
            yield root


def _quota(folder: Path) -> tuple[float, float]:
    """Microseconds of processor time in each period; zero where there is no limit."""
    try:
        quota, _, period = (folder / "cpu.max").read_text().partition(" ")
        return (0.0 if quota == "max" else float(quota)), float(period)
    except (OSError, ValueError):
        return (float(_number(folder / "cpu.cfs_quota_us")),
                float(_number(folder / "cpu.cfs_period_us")))


def _number(path: Path) -> int:
    try:
        number = int(path.read_text())
    except (OSError, ValueError):  # `max`
        return 0
    return number if 0 < number < 1 << 60 else 0  # version 1 has a huge one for no limit


def _total(path: Path) -> int:
    try:
        for line in path.read_text().splitlines():
            name, _, rest = line.partition(":")
            if name == "MemTotal":
                return int(rest.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return 0
