"""A real registry on a free port of this machine, and what to do where a program is missing."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

import pytest

_CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: {folder}/storage}}
  delete: {{enabled: true}}
http: {{addr: "127.0.0.1:{port}"}}
"""


def need(program: str) -> str:
    """The program's path. Without it the test is skipped, or fails where services are required."""
    found = shutil.which(program)
    if found:
        return found
    reason = f"{program} is not on this machine"
    if os.environ.get("TOOLCHAIN_REQUIRE_SERVICES") == "1":
        pytest.fail(f"{reason}, and TOOLCHAIN_REQUIRE_SERVICES=1 asks for it")
    pytest.skip(reason)


def free_port() -> int:
    """A port on which nothing listens at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RegistryServer:
    """docker-registry, serving `folder/storage` at `host` while the block runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = ""
        self._program = need("docker-registry")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RegistryServer:
        for _ in range(5):  # another program may take the port before the registry does
            port = free_port()
            self.host = f"127.0.0.1:{port}"
            config = self.folder / "config.yml"
            config.write_text(_CONFIG.format(folder=self.folder, port=port))
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
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            try:
                connection.request("GET", "/v2/")
                if connection.getresponse().status == 200:
                    return True
            except OSError:
                time.sleep(0.02)
            finally:
                connection.close()
        return False
