"""One Kubernetes cluster: who is asked, how often, and what its refusals mean.

Answers are JSON as it came: models of the client differ from release to release, and version 36
spoils text. A busy or absent API server is asked again; credentials that have expired are read
again.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from toolchain.errors import EngineError, nearest, without_credentials
from toolchain.values import dataclass

Json = dict[str, Any]
CONNECT = 10.0  # seconds
_ANSWER = 60.0
_LONGEST_PAUSE = 30.0
_CONNECTIONS = 512
_BUSY = (429, 500, 502, 503, 504)
_SHOWN = 600  # characters of what a cluster says
_IN_CLUSTER = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A status, and the object or the Status that came with it."""

    status: int
    body: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Apis:
    """The client's own objects, with one set of credentials."""

    batch: Any
    core: Any


class Cluster:
    """The cluster that a context of the kubeconfig names, or the one that this process runs in.

    patience: seconds for which a cluster that does not answer is asked again.
    """

    def __init__(self, context: str, environ: Mapping[str, str], *, patience: float = 600) -> None:
        self._context = context
        self._environ = environ
        self._patience = patience
        self._lock = threading.Lock()
        self._apis: Apis | None = None
        self._namespace = "default"
        self._host = ""
        self._has_answered = False

    @property
    def namespace(self) -> str:
        """The context's own."""
        self.apis()
        return self._namespace

    def ask(self, what: str, call: Callable[[Apis], Any], *, accept: tuple[int, ...] = (),
            pause: Callable[[float], object] = time.sleep) -> Answer:
        """What the API server answers: 2xx, or a status of `accept`. Raises EngineError.

        `call` is given the client and must ask for the response itself (`_preload_content=False`).
        `pause` waits some seconds before it is asked again; if it returns true, it is not.
        """
        began, attempt, is_renewed = time.monotonic(), 0, False
        while True:
            status, body, after = self._once(call)
            if 200 <= status < 300 or status in accept:
                self._has_answered = True
                return Answer(status=status, body=body)
            if status == 401 and not is_renewed:
                is_renewed = True
                self.renew()
                continue
            # Who never answered may have the wrong address; a longer wait brings nothing.
            patience = self._patience if self._has_answered else min(self._patience, 5)
            if (status and status not in _BUSY) or time.monotonic() - began > patience:
                raise self.refusal(what, status, body)
            attempt = min(attempt + 1, 10)
            if pause(after or min(0.2 * 2 ** attempt, _LONGEST_PAUSE)):
                raise self.refusal(what, status, body)

    def events(self, namespace: str, name: str, which: str = "type=Warning") -> str:
        """The last event about a Job or its pods; empty if there is none, or none may be read."""
        answer = self.ask(
            f"list events of namespace {namespace}",
            lambda apis: apis.core.list_namespaced_event(
                namespace, field_selector=which, _preload_content=False,
                _request_timeout=timeouts()), accept=(401, 403))
        about = [item for item in answer.body.get("items") or ()
                 if item.get("involvedObject", {}).get("name", "").startswith(name)]
        last: Json = max(about, key=lambda item: str(item.get("lastTimestamp") or ""), default={})
        return without_credentials(str(last.get("message", "")))[:_SHOWN]

    def stream(self, call: Callable[[Apis], Any]) -> Any:
        """An open response with status 2xx, or a Broken."""
        status, response, after = self._call(call)
        if 200 <= status < 300:
            self._has_answered = True
            return response
        raise Broken(status, _read(response) if response is not None else {}, after)

    def apis(self) -> Apis:
        with self._lock:
            if self._apis is None:
                self._apis = self._load()
            return self._apis

    def renew(self) -> None:
        """Read the credentials again: a token may have expired."""
        with self._lock:
            self._apis = None

    def refusal(self, what: str, status: int, body: Json) -> EngineError:
        """A status that cannot be helped, in words."""
        said = without_credentials(str(body.get("message") or "no answer"))[:_SHOWN]
        where = f"{what} at {self._host}"
        if status == 0:
            return EngineError(f"the cluster does not answer: {said}", where=where,
                               fix="check the context (`kubectl cluster-info`), VPN and proxy")
        if status == 401:
            return EngineError("the cluster does not know these credentials", where=where,
                               fix="log in again; `kubectl auth whoami` must work")
        if status == 403:
            return EngineError(f"no permission: {said}", where=where,
                               fix="ask for a role as in docs/guides/kubernetes.md, or set "
                                   "kubernetes.namespace")
        if status == 404 and "namespaces" in said:
            return EngineError(f"the cluster has no such namespace: {said}", where=where,
                               fix="set kubernetes.namespace, or correct the template's")
        if status in (400, 422):
            return EngineError(f"the cluster refuses the Job: {said}", where=where,
                               fix="correct the job template or the kubernetes settings; dry_run=1 "
                                   "shows the manifest")
        return EngineError(f"the cluster answered {status}: {said}", where=where,
                           fix="try again later, or see the API server's log")

    def _once(self, call: Callable[[Apis], Any]) -> tuple[int, Json, float]:
        status, response, after = self._call(call)
        return status, _read(response) if response is not None else {}, after

    def _call(self, call: Callable[[Apis], Any]) -> tuple[int, Any, float]:
        """Status, response, seconds to wait; status 0: none came."""
        import urllib3
        from kubernetes.client.exceptions import ApiException

        apis = self.apis()
        try:
            response = call(apis)
        except ApiException as error:
            message = _Said(error.body or error.reason or "")
            return error.status or 0, message, _after(error.headers)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            return 0, _Said(json.dumps({"message": _cause(error)})), 0
        except ValueError as error:  # version 37 checks what it sends
            raise EngineError(
                f"the Job is not valid: {_first_of(error)}", where=f"job template, {self._host}",
                fix="correct the job template or the kubernetes settings; dry_run=1 shows the "
                    "manifest") from None
        return int(response.status), response, _after(response.headers)

    def _load(self) -> Apis:
        try:
            import kubernetes
        except ImportError:
            raise EngineError("the Kubernetes client is not installed", where="engine kubernetes",
                              fix="pip install 'mlproject-toolchain[kubernetes]'") from None
        from kubernetes.config.config_exception import ConfigException
        from yaml import YAMLError

        client, config = kubernetes.client, _loading()
        configuration = type.__call__(client.Configuration)
        path = self._environ.get("KUBECONFIG") or None
        try:
            contexts, current = config.list_kube_config_contexts(config_file=path)
            chosen = self._chosen(contexts, current)
            config.load_kube_config(config_file=path, context=chosen["name"],
                                    client_configuration=configuration, persist_config=False)
            self._namespace = chosen["context"].get("namespace") or "default"
        except (ConfigException, YAMLError, OSError, ValueError, KeyError, TypeError) as error:
            if path or self._context or not self._is_inside(configuration):
                raise self._unusable(error, path) from None
        self._host = without_credentials(str(configuration.host))
        import urllib3

        configuration.retries = urllib3.Retry(0, redirect=0)  # asked again here, if at all
        configuration.connection_pool_maxsize = _CONNECTIONS  # more are made, with a warning
        made = client.ApiClient(configuration=configuration)
        return Apis(batch=client.BatchV1Api(made), core=client.CoreV1Api(made))

    def _chosen(self, contexts: list[Json], current: Json) -> Json:
        if not self._context:
            return current
        names = [item["name"] for item in contexts]
        if self._context not in names:
            raise EngineError(
                f"no context named {self._context!r}{nearest(self._context, names)}",
                where=self._environ.get("KUBECONFIG") or "~/.kube/config",
                fix=f"known: {', '.join(names) or 'none'}; set kubernetes.context")
        return contexts[names.index(self._context)]

    def _is_inside(self, configuration: Any) -> bool:
        """Whether this process is in a pod: then its service account serves."""
        from kubernetes.config.config_exception import ConfigException

        try:
            _loading().load_incluster_config(client_configuration=configuration)
            with open(_IN_CLUSTER) as stream:
                self._namespace = stream.read().strip() or "default"
        except (ConfigException, OSError):
            return False
        return True

    @staticmethod
    def _unusable(error: Exception, path: str | None) -> EngineError:
        return EngineError(f"no cluster is known: {_first_of(error)}",
                           where=path or "~/.kube/config",
                           fix="set KUBECONFIG to a kubeconfig with a current context, or set "
                               "kubernetes.context")


class Broken(Exception):
    """A stream that did not begin. status 0: no answer came; after: seconds to wait."""

    def __init__(self, status: int, body: Json, after: float) -> None:
        super().__init__(status)
        self.status = status
        self.body = body
        self.after = after


class _Said:
    """What an ApiException holds, to be read like a response."""

    def __init__(self, text: str | bytes) -> None:
        self.data = text.encode() if isinstance(text, str) else text


def lines(response: Any) -> Iterator[bytes]:
    """Lines of a response as they come. Raises urllib3's HTTPError and OSError."""
    rest = b""
    for data in response.stream(amt=None, decode_content=True):
        *whole, rest = (rest + data).split(b"\n")
        yield from whole


def closed(response: Any) -> None:
    """End a response that another thread may be reading."""
    import contextlib
    import socket

    connection: Any = (getattr(response, "connection", None)
                       or getattr(response, "_connection", None))
    with contextlib.suppress(OSError, AttributeError):
        connection.sock.shutdown(socket.SHUT_RDWR)


def _loading() -> Any:
    """The client's reader of kubeconfigs, which has no types."""
    from kubernetes import config

    return config


def timeouts(read: float = _ANSWER) -> tuple[float, float]:
    """To connect, and to wait for a word."""
    return CONNECT, read


def _read(response: Any) -> Json:
    import urllib3

    try:
        data = response.data
    except (urllib3.exceptions.HTTPError, OSError) as error:
        return {"message": _cause(error)}
    finally:
        if hasattr(response, "release_conn"):
            response.release_conn()
    try:
        found = json.loads(data)
    except ValueError:
        return {"message": data.decode(errors="replace").strip()[:_SHOWN]}
    return found if isinstance(found, dict) else {"message": str(found)[:_SHOWN]}


def _after(headers: Any) -> float:
    """Retry-After, in seconds."""
    try:
        return min(float((headers or {}).get("Retry-After") or 0), 120)
    except (ValueError, TypeError):
        return 0


def _cause(error: BaseException) -> str:
    """The innermost reason of a connection that failed."""
    reason = getattr(error, "reason", None)
    while isinstance(reason, BaseException):
        error, reason = reason, getattr(reason, "reason", None)
    text = str(reason or error)
    return text.rpartition(">: ")[2] or text


def _first_of(error: Exception) -> str:
    """What a library says in many lines, in one."""
    words = [line.strip() for line in str(error).splitlines() if line.strip()]
    return without_credentials(": ".join(words[:3]))[:_SHOWN]
