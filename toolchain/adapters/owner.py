"""Which process a run or a container belongs to, and whether it is still there.

A process is told from a later one with the same number by the time it was started, a machine's life
from its next by the kernel's boot id. Whether a process of another machine, or of a container that
sees other process numbers, is alive cannot be seen from here.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict
from pathlib import Path

from toolchain.values import dataclass

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A process of some machine. Empty text is what the machine does not say.

    machine: /etc/machine-id; boot: of the kernel; space: the pid namespace; since: clock ticks
    from the boot to the process's start.
    """

    host: str
    machine: str
    boot: str
    space: str
    pid: int
    since: int

    @classmethod
    def here(cls) -> Owner:
        """This process."""
        return cls(host=socket.gethostname(), machine=_text(Path("/etc/machine-id")),
                   boot=_text(_PROC / "sys/kernel/random/boot_id"), space=_space(),
                   pid=os.getpid(), since=_since(os.getpid()) or 0)

    @property
    def text(self) -> str:
        """As a run's tag or a container's label."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        """None for what is not an owner: a tag or a label can be edited by anybody."""
        try:
            value = json.loads(text)
            return cls(host=str(value["host"]), machine=str(value["machine"]),
                       boot=str(value["boot"]), space=str(value["space"]),
                       pid=int(value["pid"]), since=int(value["since"]))
        except (ValueError, TypeError, KeyError):
            return None

    def is_alive(self, here: Owner) -> bool | None:
        """Whether the process is there, as seen by `here`; None if that cannot be seen."""
        if self.boot and (self.boot, self.space) == (here.boot, here.space):
            since = _since(self.pid)
            if since is None and _is_hidden(self.pid):
                return None
            return since is not None and since == self.since
        # Machines that were copied from one image may share an id, but not a name as well.
        if (self.boot and here.boot and self.boot != here.boot
                and self.machine and (self.machine, self.host) == (here.machine, here.host)):
            return False  # it was started again since
        return None


def _since(pid: int) -> int | None:
    """When the process was started, in ticks; None if there is none, or only its remains."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The second field is the program's name, which can hold anything: proc(5).
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])


def _is_hidden(pid: int) -> bool:
    """Whether there is such a process, of another user, that /proc does not show (hidepid)."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        pass
    return False


def _space() -> str:
    try:
        return os.readlink(_PROC / "self/ns/pid")
    except OSError:
        return ""


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
