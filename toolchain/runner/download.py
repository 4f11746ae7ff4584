"""A file that an http(s) address names -> a file of the container.

With what Python itself has: images need no package for it. Proxies and CA bundles are those of the
environment (`https_proxy`, `SSL_CERT_FILE`).
"""

from __future__ import annotations

import base64
import http.client
import re
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from toolchain.errors import TrackingError
from toolchain.spec.address import shown, without

_TIMEOUT = 60  # seconds to connect, and without a byte


def fetch(uri: str, folder: Path) -> Path:
    """The file, under the last part of its address' path. Raises TrackingError."""
    target = folder / _name(uri)
    try:
        with urllib.request.urlopen(_request(uri), timeout=_TIMEOUT) as answer:
            if answer.status != 200:
                raise failed(uri, f"the server answers {answer.status}")
            announced = answer.headers.get("Content-Length")
            with open(target, "xb") as sink:
                shutil.copyfileobj(answer, sink, 1 << 20)
        if announced and int(announced) != target.stat().st_size:
            raise failed(uri, "it was cut short")
    except urllib.error.HTTPError as error:
        raise failed(uri, f"the server answers {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise failed(uri, str(error.reason)) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise failed(uri, type(error).__name__) from None
    return target


def failed(uri: str, reason: str) -> TrackingError:
    return TrackingError(f"an input cannot be fetched: {without(reason, uri)}", where=named(uri),
                         fix="check the address, and this container's credentials for it")


def named(uri: str) -> str:
    """The address as an error may show it."""
    return shown(uri)[:300]


def _request(uri: str) -> urllib.request.Request:
    parts = urlsplit(uri)
    user, at, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(
        urlunsplit((parts.scheme, host, parts.path, parts.query, "")),
        headers={"Accept-Encoding": "identity"})
    if at:  # not sent on to where a redirection leads
        words = base64.b64encode(unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {words}")
    return request


def _name(uri: str) -> str:
    """A file name like the address' last part; programs go by the extension."""
    last = unquote(urlsplit(uri).path).rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._-]", "_", last).lstrip(".")[-100:] or "input"
