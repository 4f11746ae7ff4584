"""Processors and memory: of the machine, of a set of processors, of cgroups of both versions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from toolchain.adapters import capacity

_ROOT = Path(__file__).parents[2]
_GIB = 1 << 30


class Kernel:
    """What the kernel says in /proc and /sys/fs/cgroup."""

    def __init__(self, folder: Path) -> None:
        self.groups = folder / "cgroup"
        self.proc = folder / "proc"
        self.write("proc/meminfo", "MemTotal: 33554432 kB\nMemAvailable: 16777216 kB\n")

    def write(self, path: str, text: str) -> None:
        (self.groups.parent / path).parent.mkdir(parents=True, exist_ok=True)
        (self.groups.parent / path).write_text(text)

    def cpus(self) -> float:
        return capacity.cpus(self.groups, self.proc)

    def memory(self) -> int:
        return capacity.memory(self.groups, self.proc)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def test_this_machine_has_what_its_kernel_says() -> None:
    assert 0 < capacity.cpus() <= len(os.sched_getaffinity(0))
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < capacity.memory() <= total


def test_a_process_that_is_kept_to_one_processor_has_one() -> None:
    said = subprocess.run(
        [sys.executable, "-c", "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
         "\nfrom toolchain.adapters import capacity\nprint(capacity.cpus() <= 1)"],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(_ROOT)})
    assert said.stdout == "True\n", said.stderr


def test_without_cgroups_it_is_the_machines(kernel: Kernel) -> None:
    assert kernel.cpus() == len(os.sched_getaffinity(0))
    assert kernel.memory() == 32 * _GIB
    (kernel.proc / "meminfo").unlink()
    assert kernel.memory() == 0


def test_version_two_with_a_limit_above(kernel: Kernel) -> None:
    kernel.write("proc/self/cgroup", "0::/kube/pod/container\n")
    kernel.write("cgroup/kube/pod/container/cpu.max", "max 100000\n")
    kernel.write("cgroup/kube/pod/cpu.max", "50000 100000\n")
    kernel.write("cgroup/kube/pod/container/memory.max", "max\n")
    kernel.write("cgroup/kube/pod/memory.max", f"{4 * _GIB}\n")
    kernel.write("cgroup/kube/pod/memory.current", f"{3 * _GIB}\n")
    assert kernel.cpus() == 0.5
    assert kernel.memory() == 4 * _GIB


def test_version_one_as_in_a_container(kernel: Kernel) -> None:
    """The path is the one outside; what is mounted here is the container's own."""
    kernel.write("proc/self/cgroup", "5:cpu,cpuacct:/docker/0123\n4:memory:/docker/0123\n"
                                     "1:name=systemd:/\n0::/\n")
    kernel.write("cgroup/cpu,cpuacct/cpu.cfs_quota_us", "25000\n")
    kernel.write("cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n")
    kernel.write("cgroup/memory/memory.limit_in_bytes", f"{_GIB}\n")
    kernel.write("cgroup/memory/memory.usage_in_bytes", f"{2 * _GIB}\n")
    assert kernel.cpus() == 0.25
    assert kernel.memory() == _GIB


def test_no_limit_is_none(kernel: Kernel) -> None:
    kernel.write("proc/self/cgroup", "4:memory:/\n1:cpu:/\n")
    kernel.write("cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    kernel.write("cgroup/cpu/cpu.cfs_period_us", "100000\n")
    kernel.write("cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    assert kernel.cpus() == len(os.sched_getaffinity(0))
    assert kernel.memory() == 32 * _GIB
