"""URI of an input -> a file or folder of this machine. Implements toolchain.run.Remote.

http and https are read here; every other scheme (`s3`, `gs`, `wasbs`, `runs`, `models`, …) is
MLflow's, with its credentials and its tracking store.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from toolchain.errors import TrackingError
from toolchain.spec.address import shown, without

_TIMEOUT = (20, 60)  # seconds to connect, seconds without a byte
_PIECE = 1 << 20


class RemoteInputs:
    """Fetches with what the machine has set up: proxies, netrc, CA bundles, cloud credentials."""

    def __init__(self, tracking_uri: str) -> None:
        self._tracking_uri = tracking_uri

    def fetch(self, uri: str, folder: Path) -> Path:
        if uri.startswith(("http://", "https://")):
            return _download(uri, folder / _name(uri))
        return self._artifact(uri, folder)

    def _artifact(self, uri: str, folder: Path) -> Path:
        with _explained(uri):
            from mlflow.artifacts import download_artifacts

            return Path(download_artifacts(artifact_uri=uri, dst_path=str(folder),
                                           tracking_uri=self._tracking_uri))


def _download(uri: str, target: Path) -> Path:
    import requests

    try:
        with requests.get(uri, stream=True, timeout=_TIMEOUT) as answer:
            if answer.status_code != 200:
                raise _failed(uri, f"the server answers {answer.status_code} {answer.reason}")
            announced = answer.headers.get("Content-Length")
            with open(target, "xb") as sink:
                for piece in answer.iter_content(_PIECE):
                    sink.write(piece)
            # requests takes a body that was cut short for a whole one.
            coded = "Content-Encoding" in answer.headers
            if announced and not coded and int(announced) != target.stat().st_size:
                raise _failed(uri, "it was cut short")
    except (requests.RequestException, OSError, ValueError) as error:
        raise _failed(uri, type(error).__name__) from None
    return target


@contextlib.contextmanager
def _explained(uri: str) -> Iterator[None]:
    """What the libraries behind a scheme raise for a network, a right or a name has no common
    class but that of its package."""
    try:
        yield
    except Exception as error:
        package = type(error).__module__.partition(".")[0]
        ours = package in ("builtins", "toolchain") and not isinstance(error, ImportError)
        if ours and not isinstance(error, OSError):
            raise
        raise _failed(uri, str(error).split("\n")[0][:300] or type(error).__name__) from None


def _name(uri: str) -> str:
    """A file name like the URI's last part; programs go by the extension."""
    last = unquote(urlsplit(uri).path).rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._-]", "_", last).lstrip(".")[-100:] or "input"


def _failed(uri: str, reason: str) -> TrackingError:
    return TrackingError(f"an input cannot be fetched: {without(reason, uri)}",
                         where=shown(uri)[:300],
                         fix="check the address, and this machine's credentials for it")
