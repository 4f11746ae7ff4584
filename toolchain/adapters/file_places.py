"""sha256 of a package's file -> where it is to be had: hints on this machine's record.

A URL is never part of a lock; the bytes that come from it are checked against the lock. It may hold
`${NAME}`, and no value of it.
"""

from __future__ import annotations

from toolchain.digest import Digest
from toolchain.errors import without_credentials
from toolchain.trace import Trace
from toolchain.values import dataclass

_INDEX = "file"  # trace stage: as a package index said
_LOCKED = "locked file"  # as another tool's lock has it: taken where no index has it


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePlace:
    """Where a file is, and its name there, which tells a wheel from an sdist."""

    url: str
    filename: str

    @property
    def is_wheel(self) -> bool:
        return self.filename.endswith(".whl")


class FilePlaces:
    """The hints in one cache's traces."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    def note(self, digest: Digest, url: str, filename: str) -> None:
        """An index, or the project itself, says that the file is there."""
        self._note(_INDEX, digest, url, filename)

    def note_locked(self, digest: Digest, url: str, filename: str) -> None:
        """Another tool's lock says that the file is there."""
        self._note(_LOCKED, digest, url, filename)

    def find(self, digest: Digest) -> FilePlace | None:
        return self.in_index(digest) or self._read(_LOCKED, digest)

    def in_index(self, digest: Digest) -> FilePlace | None:
        return self._read(_INDEX, digest)

    def _note(self, stage: str, digest: Digest, url: str, filename: str) -> None:
        value = {"url": without_credentials(url), "filename": filename}
        if self._trace.get(stage, digest) != value:
            self._trace.note(stage, digest, value)

    def _read(self, stage: str, digest: Digest) -> FilePlace | None:
        value = self._trace.get(stage, digest)
        return None if value is None else FilePlace(url=value["url"], filename=value["filename"])
