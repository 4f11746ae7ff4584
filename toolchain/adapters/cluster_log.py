"""A container's log, followed to its end, over however many connections that takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from toolchain.adapters.cluster import Broken, Cluster, closed, timeouts
from toolchain.adapters.log import Log
from toolchain.errors import EngineError
from toolchain.kubernetes.story import container_id, has_ended

_SILENCE = 300.0  # seconds without a word, after which the connection is made anew
_TRIES = 5
_LAG = 5.0  # seconds
_COMPLAINT = b"rpc error: code = "


class PodLog(threading.Thread):
    """Copies a container's output to `log`. `known`: its pod as it is known now, None if gone.

    Once the server ends the log, the container has ended, or the server is being restarted. What a
    pod that is gone would answer is not the container's, but a complaint. A node whose container is
    removed while it is read writes one behind the output, with the container's id.
    """

    def __init__(self, cluster: Cluster, namespace: str, pod: str, container: str, log: Log,
                 known: Callable[[], dict[str, Any] | None]) -> None:
        super().__init__(name=f"log of {pod}", daemon=True)
        self._cluster = cluster
        self._namespace = namespace
        self._pod = pod
        self._container = container
        self._log = log
        self._known = known
        self._shown = 0  # bytes, which a new connection begins with again
        self._kept = b""  # of an unfinished line, what may be such a complaint
        self._id = b""
        self._over = threading.Event()
        self.ended = threading.Event()  # join() can be cut short by a signal, and then misleads
        self._response: Any = None

    def end(self) -> None:
        """Stop: nobody wants the rest."""
        self._over.set()
        if self._response is not None:
            closed(self._response)

    def run(self) -> None:
        failures = 0
        try:
            while not self._over.is_set() and failures < _TRIES:
                before, was_over = self._shown, self._has_ended()
                is_whole = self._copy()
                if (is_whole and (was_over or self._ends_soon())) or self._known() is None:
                    return
                failures = 0 if self._shown > before else failures + was_over
                self._over.wait(0.1 if self._shown > before else 1)
        except EngineError:
            pass  # the watch meets the same, and says so
        finally:
            self._log.close()
            self.ended.set()

    def _has_ended(self) -> bool:
        pod = self._known()
        return pod is None or has_ended(pod, self._container)

    def _ends_soon(self) -> bool:
        """Whether the container has ended; its status comes a little after its log's end."""
        end = time.monotonic() + _LAG
        while not self._over.is_set() and time.monotonic() < end:
            pod = self._known()
            if pod is None or pod["metadata"].get("deletionTimestamp") or self._has_ended():
                return True
            self._over.wait(0.1)
        return False

    def _copy(self) -> bool:
        """Show what is new; whether the server ended it, rather than a connection that broke."""
        import urllib3

        skip = self._shown
        self._id = container_id(self._known(), self._container).encode() or self._id
        try:
            self._response = self._cluster.stream(
                lambda apis: apis.core.read_namespaced_pod_log(
                    self._pod, self._namespace, container=self._container, follow=True,
                    _preload_content=False, _request_timeout=timeouts(_SILENCE)))
            if self._over.is_set():
                return False
            for data in self._response.stream(amt=None, decode_content=True):
                fresh, skip = data[skip:], max(0, skip - len(data))
                if fresh:
                    self._shown += len(fresh)
                    self._write(fresh)
        except Broken as error:
            if error.status == 401:
                self._cluster.renew()
            if error.status == 404:
                self._over.set()
            self._over.wait(error.after)
            return False
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError):
            return False
        finally:
            self._response = None
            self._write_kept()
        return True

    def _write(self, data: bytes) -> None:
        data = self._kept + data
        at = data.find(_COMPLAINT, data.rfind(b"\n") + 1)
        at = len(data) if at < 0 else at
        self._log.write(data[:at])
        self._kept = data[at:]

    def _write_kept(self) -> None:
        if self._id and self._id in self._kept:
            self._shown -= len(self._kept)
        else:
            self._log.write(self._kept)
        self._kept = b""
