"""Jobs and pods of one namespace, as the API server tells of them: watched, never polled.

One watch of each kind serves all jobs of an engine. It goes on from the last resourceVersion that
was seen; where the server has forgotten that one (410 Gone), everything is listed again.
"""

from __future__ import annotations

import json
import threading
import time
from typing import Any

from toolchain.adapters.cluster import Broken, Cluster, closed, lines, timeouts
from toolchain.errors import EngineError
from toolchain.kubernetes import MANAGED, MANAGER

Json = dict[str, Any]
_SELECTOR = f"{MANAGED}={MANAGER}"
_LONGEST = 240  # seconds after which the server ends a watch, before something between us does
_GONE = 410


class Observed:
    """What is known of a namespace while somebody `follows` a Job in it."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._changed = threading.Condition()
        self._followers = 0
        self._watches: list[_Watch] = []
        self._error: EngineError | None = None
        self._news: dict[str, int] = {}  # of a Job's name: how often something was heard of it
        self._deleted: set[str] = set()
        self._removed: dict[str, Json] = {}  # of a Job's name: a pod that is gone, as it was
        self._listed = 0.0  # when Jobs were last asked for, all of them
        self.jobs: dict[str, Json] = {}
        self.pods: dict[str, dict[str, Json]] = {}  # of a Job's name: by their own

    def __enter__(self) -> Observed:
        with self._changed:
            self._followers += 1
            if not self._watches:
                self._error = None
                self._watches = [_Watch(self, self._cluster, self._namespace, kind)
                                 for kind in ("job", "pod")]
                for watch in self._watches:
                    watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._followers -= 1
            if self._followers:
                return
            ended, self._watches = self._watches, []
            self.jobs, self.pods, self._news = {}, {}, {}
            self._deleted, self._removed = set(), {}
        for watch in ended:
            watch.end()

    def wait(self, name: str, heard: int, seconds: float) -> int:
        """Until more is heard of a Job than `heard`, or time is up; how much was heard.

        Raises EngineError if the cluster no longer answers.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._error is not None or self._news.get(name, 0) > heard, seconds)
            if self._error is not None:
                raise self._error
            return self._news.get(name, 0)

    def pod(self, name: str) -> Json | None:
        """The newest pod of a Job."""
        found = list(self.pods.get(name, {}).values())
        return max(found, key=lambda pod: (pod["metadata"].get("creationTimestamp") or "",
                                           pod["metadata"]["name"]), default=None)

    def removed(self, name: str) -> Json | None:
        """A pod of a Job that is being taken away, or is gone."""
        return next((pod for pod in list(self.pods.get(name, {}).values())
                     if "deletionTimestamp" in pod["metadata"]), self._removed.get(name))

    def is_deleted(self, name: str, made: float) -> bool:
        """Whether a Job that was there at the time `made` is gone."""
        return name not in self.jobs and (name in self._deleted or self._listed > made)

    def is_still_wanted(self, name: str) -> bool:
        """Whether a Job is there at this moment and nobody has deleted it."""
        answer = self._cluster.ask(
            f"read Job {name} in namespace {self._namespace}",
            lambda apis: apis.batch.read_namespaced_job(
                name, self._namespace, _preload_content=False, _request_timeout=timeouts()),
            accept=(404,))
        return answer.status != 404 and not answer.body["metadata"].get("deletionTimestamp")

    def ask_for_pods(self, name: str) -> None:
        """Have a Job's pods as they are at this moment; the watch may tell of it later."""
        answer = self._cluster.ask(
            f"list pods of namespace {self._namespace}",
            lambda apis: apis.core.list_namespaced_pod(
                self._namespace, label_selector=f"{_SELECTOR},job-name={name}",
                _preload_content=False, _request_timeout=timeouts()))
        with self._changed:
            self.pods[name] = {item["metadata"]["name"]: item
                               for item in answer.body.get("items") or ()}

    # What the watches tell. One that was ended meanwhile is not listened to.

    def replace(self, watch: _Watch, items: list[Json], asked: float) -> None:
        with self._changed:
            if watch not in self._watches:
                return
            before = set(self.jobs if watch.kind == "job" else self.pods)
            if watch.kind == "job":
                self.jobs, self._listed = {}, asked
            else:
                self.pods = {}
            touched = before | {self._put(watch.kind, item) for item in items}
            self._tell(touched)

    def event(self, watch: _Watch, kind: str, item: Json) -> None:
        with self._changed:
            if watch not in self._watches:
                return
            if kind != "DELETED":
                self._tell({self._put(watch.kind, item)})
            elif watch.kind == "job":
                self.jobs.pop(item["metadata"]["name"], None)
                self._deleted.add(item["metadata"]["name"])
                self._tell({item["metadata"]["name"]})
            else:
                name = _owner(item)
                self.pods.get(name, {}).pop(item["metadata"]["name"], None)
                item["metadata"].setdefault("deletionTimestamp", "")  # by force: without
                self._removed[name] = item
                self._tell({name})

    def fail(self, watch: _Watch, error: EngineError) -> None:
        with self._changed:
            if watch in self._watches:
                self._error = error
                self._changed.notify_all()

    def _put(self, kind: str, item: Json) -> str:
        name = item["metadata"]["name"] if kind == "job" else _owner(item)
        if kind == "job":
            self.jobs[name] = item
        else:
            self.pods.setdefault(name, {})[item["metadata"]["name"]] = item
        return str(name)

    def _tell(self, names: set[str]) -> None:
        for name in names:
            self._news[name] = self._news.get(name, 0) + 1
        self._changed.notify_all()


class _Watch(threading.Thread):
    """One kind of object. Ends when it is told to, or when the cluster refuses for good."""

    def __init__(self, observed: Observed, cluster: Cluster, namespace: str, kind: str) -> None:
        super().__init__(name=f"watch of {kind}s", daemon=True)
        self.kind = kind
        self._observed = observed
        self._cluster = cluster
        self._namespace = namespace
        self._over = threading.Event()
        self._response: Any = None
        self._version = ""

    def end(self) -> None:
        self._over.set()
        if self._response is not None:
            closed(self._response)

    def run(self) -> None:
        try:
            failures = 0
            while not self._over.is_set():
                if not self._version:
                    self._list()
                if self._watch():
                    failures = 0
                else:
                    failures += 1
                    self._over.wait(min(0.1 * 2 ** failures, 10))
        except EngineError as error:
            self._observed.fail(self, error)

    def _list(self) -> None:
        asked = time.monotonic()
        answer = self._cluster.ask(
            f"list {self.kind}s of namespace {self._namespace}",
            lambda apis: self._method(apis)(
                self._namespace, label_selector=_SELECTOR, _preload_content=False,
                _request_timeout=timeouts()), pause=self._over.wait)
        self._version = answer.body.get("metadata", {}).get("resourceVersion", "")
        self._observed.replace(self, answer.body.get("items") or [], asked)

    def _watch(self) -> bool:
        """Read one watch to its end; whether it brought anything or lasted."""
        import urllib3

        began, is_good = time.monotonic(), False
        try:
            self._response = self._cluster.stream(lambda apis: self._method(apis)(
                self._namespace, label_selector=_SELECTOR, watch=True,
                allow_watch_bookmarks=True, resource_version=self._version,
                timeout_seconds=_LONGEST, _preload_content=False,
                _request_timeout=timeouts(_LONGEST + 30.0)))
            if self._over.is_set():
                return True  # `end` came before there was anything to close
            for line in lines(self._response):
                if self._over.is_set():
                    return True
                if line.strip():
                    self._read(line)
                    is_good = True
        except Broken as error:
            self._broken(error.status)
            self._over.wait(error.after)
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError):
            pass  # broken off: go on from the last version
        finally:
            self._response = None
        return is_good or time.monotonic() - began > 1

    def _read(self, line: bytes) -> None:
        event = json.loads(line)
        kind, item = event["type"], event["object"]
        if kind == "ERROR":
            raise Broken(int(item.get("code") or 500), item, 0)
        if kind != "BOOKMARK":
            self._observed.event(self, kind, item)
        self._version = item["metadata"]["resourceVersion"]

    def _broken(self, status: int) -> None:
        if status == 401:
            self._cluster.renew()
        # Listing says what is wrong, and waits for a cluster that does not answer.
        self._version = ""

    def _method(self, apis: Any) -> Any:
        return (apis.batch.list_namespaced_job if self.kind == "job"
                else apis.core.list_namespaced_pod)


def _owner(pod: Json) -> str:
    for owner in pod["metadata"].get("ownerReferences") or ():
        if owner.get("kind") == "Job":
            return str(owner["name"])
    return ""
