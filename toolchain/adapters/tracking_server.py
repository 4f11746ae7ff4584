"""A question -> a tracking server's answer, without MLflow: a GET of its REST API.

Rule: credentials go to the server that was named, and to no other that it redirects to.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from toolchain.adapters import certificates
from toolchain.errors import TrackingError, without_credentials

_TIMEOUT = 20  # seconds to connect, and without a byte


def ask(uri: str, path: str, environ: Mapping[str, str]) -> dict[str, Any] | None:
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
        context = certificates.context(urlsplit(shown).netloc, environ)
        handlers.append(urllib.request.HTTPSHandler(context=context))
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=_TIMEOUT) as response:
            answer = json.load(response)
            if not isinstance(answer, dict):
                raise ValueError("not an object")
            return answer
    except urllib.error.HTTPError as error:
        if error.code in (400, 404):
            return None
        raise TrackingError(
            f"the tracking server answered {error.code}", where=shown,
            fix="check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
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
    """As MLflow's own client takes it: variables, then the URI's user, then a token."""
    user = environ.get("MLFLOW_TRACKING_USERNAME")
    password = environ.get("MLFLOW_TRACKING_PASSWORD", "")
    inline = urlsplit(uri).netloc.rpartition("@")[0]
    if not user and inline:
        user, _, password = (unquote(part) for part in inline.partition(":"))
    if user:
        return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"
    token = environ.get("MLFLOW_TRACKING_TOKEN")
    return f"Bearer {token}" if token else ""


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
