"""Debian's own packages in a real container: what update-alternatives would link is linked, and
what ldconfig would note is noted.

This needs the network: Debian's mirror is asked for the packages.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.support.registry import RegistryServer
from tests.support.services import docker_client
from tests.system.test_examples import Clone

_CHECK = """
set -e
/opt/venv/bin/python -c "import ctypes; print(ctypes.CDLL('liblapack.so.3').dgesv_ is not None, \
ctypes.CDLL('libblas.so.3').ddot_ is not None)"
readlink /usr/bin/awk /etc/alternatives/awk
/opt/venv/bin/python -c "from ctypes.util import find_library as find; print(find('z'), \
find('lapack'), find('zbar'))"
awk 'BEGIN { print "awk", PROCINFO["version"] }'
editor --version | head -n 1
which which
"""


def test_alternatives_of_real_packages(tmp_path: Path) -> None:
    client = docker_client()
    clone = Clone(tmp_path / "clone")
    project = clone.folder / "projects/native"
    project.mkdir()
    (project / "MLproject").write_text("name: native\nentry_points: {main: {command: 'true'}}\n")
    (project / "requirements.txt").write_text("")
    (project / "pyproject.toml").write_text(
        '[tool.toolchain]\n'
        'apt = ["libblas3", "liblapack3", "gawk", "nano", "vim-tiny", "libzbar0"]\n')
    (tmp_path / "registry").mkdir()
    with RegistryServer(tmp_path / "registry") as registry:
        output = clone.doit("push", "project=native", f"registry={registry.host}")
        image = client.images.pull(clone.receipt("native", "push")["reference"])
    try:
        found = client.containers.run(image, ["bash", "-c", _CHECK], network_mode="none",
                                      remove=True).decode().splitlines()
    finally:
        client.images.remove(image.id, force=True)
        shutil.rmtree(clone.folder)
    assert "link is missing" not in output
    assert found[:3] == ["True True", "/etc/alternatives/awk", "/usr/bin/gawk"]
    assert found[3] == "libz.so.1 liblapack.so.3 libzbar.so.0"  # from ld.so.cache
    assert found[4].startswith("awk 5.")
    assert "nano" in found[5]  # 40, more than vim.tiny's 15
    assert found[6] == "/usr/bin/which"
