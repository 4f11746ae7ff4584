"""What passes between the one who asks for jobs and the Ray tasks that run them.

Rule 1: Ray carries this class to a process of the cluster by value, so nothing here imports
anything of this package.
Rule 2: a job goes by this way and not as a task's argument: what is here stays in the memory of
one process, while arguments go through raylets, and into spilled objects if they are large.
Rule 3: an attempt that nobody waits for any more is told to end. So is one whose mailbox is gone.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

_FULL = 4 << 20  # bytes of a log that wait for their reader; then the job waits
_POLL = 20  # seconds after which a question that has no answer yet is answered with nothing


class Mailbox:
    """Boxes by the name of an attempt; an actor, so methods are called from everywhere at once."""

    def __init__(self) -> None:
        self._boxes: dict[str, _Box] = {}

    # The asking side

    async def open(self, name: str, job: bytes, wheels: list[Any]) -> None:
        self._boxes[name] = _Box(job, wheels)

    async def read(self, name: str) -> tuple[bytes, bool]:
        """What was said since, and whether that is all. Waits for news."""
        box = self._boxes.get(name)
        if box is None:
            return b"", True
        await box.until(lambda: box.said or box.is_over)
        is_over = box.is_over
        return await box.take(), is_over

    async def where(self, name: str) -> str:
        """The node that it runs on; empty if it has not begun."""
        box = self._boxes.get(name)
        return box.node if box is not None else ""

    async def order(self, name: str, number: int) -> None:
        """Let the job have that signal."""
        box = self._boxes.get(name)
        if box is not None:
            await box.change(order=number)

    async def drop(self, name: str) -> bytes:
        """The attempt is over or given up; what it said since."""
        box = self._boxes.pop(name, None)
        if box is None:
            return b""
        said = await box.take()
        await box.change(is_over=True, order=box.order or int(signal.SIGKILL))
        return said

    # The node's side

    async def begin(self, name: str, node: str) -> tuple[bytes, list[Any]] | None:
        """The job; None if it is not wanted any more."""
        box = self._boxes.get(name)
        if box is None or box.order or box.node:
            return None
        await box.change(node=node)
        return box.job, box.wheels

    async def say(self, name: str, data: bytes) -> None:
        box = self._boxes.get(name)
        if box is not None:
            await box.until(lambda: box.size < _FULL or box.is_over)
            box.said.append(data)  # at once: between two awaits nothing else runs
            box.size += len(data)
            await box.change()

    async def orders(self, name: str) -> int:
        """The signal that the job is to have; 0 if none came up to now. Waits for one."""
        box = self._boxes.get(name)
        if box is None:
            return int(signal.SIGKILL)
        await box.until(lambda: box.order or box.is_over)
        return box.order

    async def done(self, name: str, last: bytes) -> None:
        """The job is over, with these as its last words."""
        box = self._boxes.get(name)
        if box is not None:
            box.said.append(last)
            await box.change(is_over=True)


class _Box:
    """One attempt."""

    def __init__(self, job: bytes, wheels: list[Any]) -> None:
        self.job, self.wheels = job, wheels
        self.said: list[bytes] = []
        self.size = 0
        self.node = ""
        self.order = 0
        self.is_over = False
        self._changed = asyncio.Condition()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for it, but not for ever: Ray's calls have no end that a caller could set."""
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(lambda: bool(condition())), _POLL)
            except asyncio.TimeoutError:
                return

    async def change(self, **values: object) -> None:
        async with self._changed:
            for name, value in values.items():
                setattr(self, name, value)
            self._changed.notify_all()

    async def take(self) -> bytes:
        said = b"".join(self.said)
        self.said.clear()
        self.size = 0
        await self.change()
        return said
