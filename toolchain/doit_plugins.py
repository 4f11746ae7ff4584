"""doit plugins that come with this package: a state file that survives, `doit forget`, `doit info`.

doit finds them through the entry points in pyproject.toml, and loads them in every call, whoever's
dodo.py it is for; so this module may import nothing of toolchain.tasks, which opens a workspace.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from pathlib import Path
from typing import Any

from doit.cmd_forget import Forget as DoitForget
from doit.cmd_info import Info as DoitInfo
from doit.dependency import DatabaseException, JsonDB
from doit.exceptions import InvalidCommand

from toolchain.errors import ToolchainError


class StateFile(JsonDB):  # type: ignore[misc]
    """doit's own state, as JSON that is replaced as a whole and shared by calls at one time.

    doit's JSON backend loses everything if it is killed while it writes; its dbm backends let
    only one process in. Here, each call merges what it changed into the file. For the stages of
    this package the state is only a hint; for other tasks of a dodo.py it is doit's memory.
    """

    desc = "JSON, written whole, shared by calls at the same time"

    def __init__(self, name: str, codec: Any, *, module_name: str | None = None) -> None:
        self._changed: set[str] = set()
        self._cleared = False
        super().__init__(name, codec, module_name=module_name)

    def _load(self) -> Any:
        try:
            return super()._load()
        except (DatabaseException, OSError):
            return {}  # damaged or unreadable: as after `doit forget --all`, nothing is lost

    def set(self, task_id: str, dependency: str, value: Any) -> None:
        # doit saves a group's own task in every call. The same value is no reason to write the
        # file anew. JSON has no tuples.
        if self.get(task_id, dependency) != (list(value) if isinstance(value, tuple) else value):
            self._changed.add(task_id)
            super().set(task_id, dependency, value)

    def remove(self, task_id: str) -> None:
        self._changed.add(task_id)
        super().remove(task_id)

    def remove_all(self) -> None:
        self._cleared = True
        super().remove_all()

    def dump(self) -> None:
        if not self._changed and not self._cleared:
            return
        path = Path(self.name)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        with contextlib.suppress(OSError):  # a hint that cannot be kept is no failure
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path.with_suffix(".lock"), "a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                merged = {} if self._cleared or not path.exists() else self._load()
                for task_id in self._changed:
                    merged.pop(task_id, None)
                    if task_id in self._db:
                        merged[task_id] = self._db[task_id]
                temporary.write_text(self.codec.encode(merged))
                temporary.replace(path)


class Forget(DoitForget):  # type: ignore[misc]
    """`doit forget`, which for stages drops the receipt and the result on record too."""

    def _execute(self, forget_sub: bool, forget_disable_default: bool, forget_all: bool) -> Any:
        forgotten: list[str] = []
        remove = self.dep_manager.remove

        def note(name: str) -> None:
            forgotten.append(name)
            remove(name)

        self.dep_manager.remove = note
        result = super()._execute(forget_sub, forget_disable_default, forget_all)
        tasks: Any = sys.modules.get("toolchain.tasks")
        for task in self.task_list if tasks is not None else ():
            meta = getattr(task, "meta", None) or {}
            if forget_all or task.name in forgotten:
                try:
                    tasks.forget(*meta.get("toolchain", ("", "")))
                except ToolchainError as error:
                    sys.stderr.write(f"forget {task.name}  failed\n{error}\n")
                    result = 1
        return result


class Info(DoitInfo):  # type: ignore[misc]
    """`doit info`, which has a word for a task that is not there; doit's own ends in a KeyError."""

    def _execute(self, pos_args: list[str], hide_status: bool = False) -> Any:
        known = {task.name for task in self.task_list}
        for name in pos_args[:1]:
            if name not in known:
                raise InvalidCommand(f"'{name}' is not a task.\n`doit list --all` names every task")
        return super()._execute(pos_args, hide_status)
