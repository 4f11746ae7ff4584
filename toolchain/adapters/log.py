"""bytes of a job -> lines on sys.stdout, as they come."""

from __future__ import annotations

import codecs
import contextlib
import io
import sys

_LONGEST = 1 << 16  # characters that are kept back while a line has no end


class Log:
    """What one job says. `trial` stands before each line, unless it is empty.

    Bytes that are no UTF-8 are shown as well as can be. A line comes out whole, so that those of
    several jobs do not mix, unless it is very long. `path` is a file that gets the bytes too.
    """

    def __init__(self, trial: str = "", path: str = "") -> None:
        self._file = open(path, "ab", buffering=0) if path else None  # noqa: SIM115
        self._prefix = f"{trial} | " if trial else ""
        self._decoder = io.IncrementalNewlineDecoder(
            codecs.getincrementaldecoder("utf-8")(errors="replace"), translate=True)
        self._line = ""
        self._is_begun = False  # whether a part of the line was shown

    def write(self, data: bytes) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk is no reason to stop the job
                self._file.write(data)
        *lines, rest = (self._line + self._decoder.decode(data)).split("\n")
        self._line = rest
        for line in lines:
            self._show(line + "\n")
        if len(rest) > _LONGEST:
            self._show(rest)
            self._line = ""

    def close(self) -> None:
        """The job is over: show what has no end of line."""
        if self._file is not None:
            self._file.close()
        rest = self._line + self._decoder.decode(b"", final=True)
        self._line = ""
        if rest:
            self._show(rest)
        if self._is_begun and self._prefix:
            self._show("\n")

    def _show(self, text: str) -> None:
        prefix = "" if self._is_begun else self._prefix
        self._is_begun = not text.endswith("\n")
        # If nobody reads any more (`doit train | head`), the job must still be able to write.
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.write(prefix + text)
            sys.stdout.flush()
