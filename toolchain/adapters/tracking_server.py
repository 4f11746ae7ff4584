"""A question -> a tracking server's answer, without MLflow: a GET of its REST API.

Rule: credentials go to the server that was named, and to no other that it redirects to.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from toolchain.adapters import certificates
from toolchain.errors import ConfigError, TrackingError, without_credentials

_TIMEOUT = 20  # seconds to connect, and without a byte
_SHORT = 10  # the same, where only the answer's coming counts
_SIGNED = ("MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4")
_PREFIX = "MLFLOW_TRACKING_"


class Answered(TrackingError):
    """The server is there, and answered with an error."""


def check(uri: str, environ: Mapping[str, str]) -> None:
    """Ask the server for next to nothing. Raises TrackingError if nobody answers, who answers is
    no MLflow server, or it wants credentials."""
    # As long as MLflow's own requests would wait, if somebody said how long that is.
    timeout = environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", "")
    # Not everybody may search, and a server that is busy is asked again when it is needed.
    with contextlib.suppress(Answered):
        ask(uri, "experiments/search?max_results=1", environ,
            float(timeout) if timeout.isdigit() and int(timeout) else _SHORT)


def is_signed(environ: Mapping[str, str]) -> bool:
    """Whether requests need a plug-in of MLflow's, so that only MLflow itself can make them."""
    return any(environ.get(name, "").lower() not in ("", "0", "false") for name in _SIGNED)


def ask(uri: str, path: str, environ: Mapping[str, str],
        timeout: float = _TIMEOUT) -> dict[str, Any] | None:
    """What the server at `uri` answers to `path`; None if there is no such thing.

    Raises TrackingError, and ConfigError for a file of certificates that is none.
    """
    shown = without_credentials(uri)
    request = urllib.request.Request(f"{shown.rstrip('/')}/api/2.0/mlflow/{path}")
    authorization = _authorization(uri, environ)
    if authorization:
        request.add_header("Authorization", authorization)
    handlers: list[Any] = [_Redirects]
    if uri.startswith("https:"):
        handlers.append(urllib.request.HTTPSHandler(
            context=_context(urlsplit(shown).netloc, environ)))
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=timeout) as response:
            answer = json.load(response)
            if not isinstance(answer, dict):
                raise ValueError("not an object")
            return answer
    except urllib.error.HTTPError as error:
        if error.code in (400, 404):
            return None
        kind = TrackingError if error.code == 401 and not is_signed(environ) else Answered
        raise kind(
            f"the tracking server answered {error.code}", where=shown,
            fix="check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
                "~/.mlflow/credentials"
            if error.code in (401, 403) else "see the server's log",
        ) from None
    except (ValueError, http.client.HTTPException):
        raise not_mlflow(uri) from None
    except OSError as error:
        raise TrackingError(
            f"the tracking server cannot be reached: {getattr(error, 'reason', error)}",
            where=shown, fix="check that it runs, and tracking_uri or MLFLOW_TRACKING_URI",
        ) from None


def not_mlflow(uri: str) -> TrackingError:
    return TrackingError("what answers is not an MLflow server", where=without_credentials(uri),
                         fix="check tracking_uri or MLFLOW_TRACKING_URI")


def _authorization(uri: str, environ: Mapping[str, str]) -> str:
    """As MLflow's own client takes it: variables, its file, then the URI's user, then a token."""
    kept = _credentials(environ)
    user = environ.get(f"{_PREFIX}USERNAME") or kept.get("mlflow_tracking_username", "")
    password = environ.get(f"{_PREFIX}PASSWORD") or kept.get("mlflow_tracking_password", "")
    inline = urlsplit(uri).netloc.rpartition("@")[0]
    if not user and inline:
        user, _, password = (unquote(part) for part in inline.partition(":"))
    if user:
        return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"
    token = environ.get(f"{_PREFIX}TOKEN")
    return f"Bearer {token}" if token else ""


def _credentials(environ: Mapping[str, str]) -> Mapping[str, str]:
    """What `mlflow login` and people write to ~/.mlflow/credentials."""
    path = Path(environ.get("HOME") or "~").expanduser() / ".mlflow/credentials"
    if not path.exists():
        return {}
    import configparser

    parser = configparser.ConfigParser()
    try:
        parser.read(path, encoding="utf-8")
        return dict(parser["mlflow"]) if "mlflow" in parser else {}
    except (configparser.Error, OSError, ValueError) as error:
        raise ConfigError(f"cannot be read: {type(error).__name__}", where=str(path),
                          fix="write it as MLflow's documentation shows: [mlflow], then "
                              "mlflow_tracking_username = …") from None


def _context(host: str, environ: Mapping[str, str]) -> ssl.SSLContext:
    """Whom MLflow's own variables trust, besides those that the machine does."""
    found = {name: environ.get(f"{_PREFIX}{name}", "")
             for name in ("SERVER_CERT_PATH", "CLIENT_CERT_PATH", "INSECURE_TLS")}
    made = certificates.context(host, environ)
    if found["SERVER_CERT_PATH"]:
        certificates.trust(made, Path(found["SERVER_CERT_PATH"]), f"{_PREFIX}SERVER_CERT_PATH")
    if found["CLIENT_CERT_PATH"]:
        certificates.present(made, Path(found["CLIENT_CERT_PATH"]))
    if found["INSECURE_TLS"].lower() in ("true", "1"):
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    return made


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Python's own would take every header along, to whatever host."""

    def redirect_request(self, req: urllib.request.Request, fp: Any, code: int, msg: str,
                         headers: Any, newurl: str) -> urllib.request.Request | None:
        made = super().redirect_request(req, fp, code, msg, headers, newurl)
        if made is not None and not _is_same(req.full_url, newurl):
            made.remove_header("Authorization")
        return made


def _is_same(old: str, new: str) -> bool:
    """Whether two URLs are of one server, or of the same by HTTPS."""
    one, other = urlsplit(old), urlsplit(new)
    if one.scheme == "http" and other.scheme == "https" and one.port is other.port is None:
        return one.hostname == other.hostname
    return (one.scheme, one.netloc) == (other.scheme, other.netloc)
