"""What is sent to a Ray node: a job, and what the node needs to know to run it."""

from __future__ import annotations

import contextlib
import pickle
import zlib
from pathlib import Path

from toolchain.run import Job
from toolchain.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where images are: in the folder of an OCI layout, else in a registry."""

    folder: str = ""
    host: str = ""
    repository: str = ""
    insecure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """A file or folder of the asking machine which the node has to see as well.

    inode: which it is; another of the same name is not meant. fix: what to do where it is not.
    """

    path: str
    inode: int
    fix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is sent: a job, or with `is_rehearsal` only what comes before it.

    machine: the asking machine, from its start to its end; local: the tracking server's address,
    if it is that machine's own.
    """

    job: Job
    place: Place
    shared: tuple[Shared, ...] = ()
    machine: str = ""
    local: str = ""
    is_rehearsal: bool = False

    def to_bytes(self) -> bytes:
        return zlib.compress(pickle.dumps(self), 1)

    @classmethod
    def from_bytes(cls, data: bytes) -> Order:
        order = pickle.loads(zlib.decompress(data))
        assert isinstance(order, cls)
        return order


def machine() -> str:
    """This machine since it was started; empty if that cannot be told."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
