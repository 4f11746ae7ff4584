"""A real registry (Debian's docker-registry) on a free port of this machine."""

from __future__ import annotations

import re
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

import pytest

from tests.support.services import free_port, need
from tests.support.tls import make_ca, make_server

_CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: {quiet}}}}}
storage:
  filesystem: {{rootdirectory: {folder}/storage}}
  delete: {{enabled: true}}
http: {{addr: "127.0.0.1:{port}"{tls}}}
{auth}"""
# What `htpasswd -nB user` says of the password hunter2.
_HTPASSWD = "user:$2b$04$Yu9FE8uHaHxjla82qJTKhOe5k.JbcKS2x2WbjJ2fkq4W3FyBKCUqm\n"


class RegistryServer:
    """docker-registry, serving `folder/storage` at `host` while the block runs.

    With `tls`, a certificate's and a key's path, over HTTPS; with `clients` only for those with a
    certificate of that CA; with `password`, for `user` with the
    password hunter2; `auth` is its configuration for anything else. With `log`, `requests` has
    what it was asked.
    """

    def __init__(self, folder: Path, *, tls: tuple[Path, Path] | None = None,
                 clients: Path | None = None, password: bool = False, auth: str = "",
                 log: bool = False) -> None:
        self.folder = folder
        self._quiet = "false" if log else "true"
        known = f", clientcas: ['{clients}']" if clients else ""
        self._tls = f", tls: {{certificate: '{tls[0]}', key: '{tls[1]}'{known}}}" if tls else ""
        self._auth = auth
        if password:
            (folder / "htpasswd").write_text(_HTPASSWD)
            self._auth = f"auth: {{htpasswd: {{realm: test, path: '{folder}/htpasswd'}}}}\n"
        self.host = ""
        self._program = need("docker-registry")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RegistryServer:
        for _ in range(5):  # another program may take the port before the registry does
            port = free_port()
            self.host = f"127.0.0.1:{port}"
            config = self.folder / "config.yml"
            config.write_text(_CONFIG.format(folder=self.folder, port=port, tls=self._tls,
                                             auth=self._auth, quiet=self._quiet))
            with open(self.folder / "log", "ab") as log:
                self._process = subprocess.Popen([self._program, "serve", str(config)],
                                                 stdout=log, stderr=log)
            if self._answers(self._process, port):
                return self
            self.stop()
        pytest.fail(f"the registry does not start: {(self.folder / 'log').read_text()[-2000:]}")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self.stop()

    @property
    def requests(self) -> list[str]:
        """Every request so far: method, path and the answer's status."""
        log = (self.folder / "log").read_text()
        return [f"{asked} {status}" for asked, status in re.findall(r'"(\w+ /\S*) \S+" (\d+)', log)]

    def stop(self) -> None:
        """End the process that was started here; twice is as once."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    @staticmethod
    def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
        end = time.monotonic() + 10
        while time.monotonic() < end and process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 2).close()
                return True
            except OSError:
                time.sleep(0.02)
        return False


def secured(folder: Path) -> RegistryServer:
    """A registry over HTTPS, with a CA of its own (`folder/ca.crt`) and for `user` alone."""
    made = make_server(folder, make_ca(folder))
    return RegistryServer(folder, tls=(made.certificate, made.key), password=True)


def trusting_user(home: Path, registry: RegistryServer, environ: dict[str, str]) -> Path:
    """Make `home` one in which Docker's settings trust the registry's CA; without a login."""
    certificates = home / ".config/docker/certs.d" / registry.host
    certificates.mkdir(parents=True)
    (certificates / "ca.crt").write_bytes((registry.folder / "ca.crt").read_bytes())
    (home / ".docker").mkdir()
    environ["HOME"] = str(home)
    for name in ("DOCKER_CONFIG", "XDG_CONFIG_HOME"):
        environ.pop(name, None)
    return home
