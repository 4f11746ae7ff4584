"""Tiny wheels and sdists, valid or deliberately not."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path


def wheel(folder: Path, name: str, version: str = "1.0", *,
          files: Mapping[str, bytes] | None = None, requires: tuple[str, ...] = (),
          scripts: Mapping[str, str] | None = None,
          tag: str = "py3-none-any", extra: tuple[zipfile.ZipInfo, ...] = ()) -> Path:
    """Write `<name>-<version>-<tag>.whl`. `files` default to one module of that name.

    `scripts` maps console scripts to `module:function`. `extra` entries go in as they are, empty.
    """
    distribution = name.replace("-", "_")
    info = f"{distribution}-{version}.dist-info"
    content = dict(files or {f"{distribution}.py": f"VERSION = {version!r}\n".encode()})
    content[f"{info}/METADATA"] = "\n".join([
        "Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}",
        *[f"Requires-Dist: {item}" for item in requires], "",
    ]).encode()
    pure = str(tag.endswith("-any")).lower()
    content[f"{info}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: {pure}\nTag: {tag}\n").encode()
    if scripts:
        lines = "".join(f"{key} = {value}\n" for key, value in scripts.items())
        content[f"{info}/entry_points.txt"] = f"[console_scripts]\n{lines}".encode()
    record = "".join(f"{path},{_hash(data)},{len(data)}\n" for path, data in content.items())
    content[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    path = folder / f"{distribution}-{version}-{tag}.whl"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, data in content.items():
            archive.writestr(zipfile.ZipInfo(entry, (2020, 1, 1, 0, 0, 0)), data,
                             zipfile.ZIP_DEFLATED)
        for item in extra:
            archive.writestr(item, b"target")
    return path


def package_folder(folder: Path, name: str, version: str = "1.0", *,
                   requires: tuple[str, ...] = (), extra: str = "") -> Path:
    """Write a package that a backend of its own builds, so that no index is needed: one module,
    and whatever other module is at its top. `extra` is `name: requirement`."""
    lines = [f"Requires-Dist: {item}" for item in requires]
    if extra:
        which, _, what = extra.partition(": ")
        lines += [f"Provides-Extra: {which}", f'Requires-Dist: {what}; extra == "{which}"']
    backend = _backend(name, version, lines, f"open('{name}.py').read()")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "backend.py").write_text(backend)
    (folder / f"{name}.py").write_text(f"VERSION = {version!r}\n")
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        f'[project]\nname = "{name}"\nversion = "{version}"\n')
    return folder


def _backend(name: str, version: str, metadata: list[str], module: str) -> str:
    """A build backend that needs nothing; `module` is the expression of its one module's text."""
    return (
        "import zipfile, os\n"
        f"NAME, VERSION, LINES = {name!r}, {version!r}, {metadata!r}\n"
        "def build_wheel(folder, config_settings=None, metadata_directory=None):\n"
        "    info = f'{NAME}-{VERSION}.dist-info'\n"
        "    head = ['Metadata-Version: 2.1', f'Name: {NAME}', f'Version: {VERSION}', *LINES, '']\n"
        f"    files = {{f'{{NAME}}.py': {module},\n"
        "        f'{info}/METADATA': '\\n'.join(head),\n"
        "        f'{info}/WHEEL': 'Wheel-Version: 1.0\\nGenerator: t\\nRoot-Is-Purelib: true\\n'\n"
        "            'Tag: py3-none-any\\n'}\n"
        "    files[f'{info}/RECORD'] = ''.join(f'{p},,\\n' for p in [*files, f'{info}/RECORD'])\n"
        "    path = f'{NAME}-{VERSION}-py3-none-any.whl'\n"
        "    with zipfile.ZipFile(os.path.join(folder, path), 'w') as z:\n"
        "        for p, text in files.items():\n"
        "            z.writestr(zipfile.ZipInfo(p, (2020, 1, 1, 0, 0, 0)), text)\n"
        "    return path\n"
    )


def sdist(folder: Path, name: str, version: str = "1.0") -> Path:
    """Write a source distribution that builds with what pip's own backend standard library has:
    a backend within the sdist itself, so that no index is needed."""
    backend = _backend(name, version, [], repr("BUILT = True\n"))
    pyproject = ('[build-system]\nrequires = []\nbuild-backend = "backend"\n'
                 f'backend-path = ["."]\n[project]\nname = "{name}"\nversion = "{version}"\n')
    path = folder / f"{name}-{version}.tar.gz"
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for entry, text in {
            "pyproject.toml": pyproject, "backend.py": backend,
            "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        }.items():
            member = tarfile.TarInfo(f"{name}-{version}/{entry}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def _hash(data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
    return f"sha256={digest}"
