"""conda.lock: rattler reads it and finds the same; what is damaged is refused with its place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import rattler
from hypothesis import Phase, given, settings

from tests.test_lock_conda import CHANNELS, INPUT, a_lock, a_package, locks
from toolchain.digest import Digest
from toolchain.errors import ResolveError
from toolchain.lock.conda import CondaLock, CondaRequest, Described
from toolchain.lock.condafile import address, from_text, to_text

FOLDER = "projects/one"
WANTED = CondaRequest(channels=CHANNELS, packages=("python",), platform="linux/amd64", virtual=(),
                      pip=False)


def text_of(made: CondaLock, channels: tuple[str, ...] = CHANNELS) -> str:
    return to_text(made, channels, FOLDER)


@given(locks)
def test_a_lock_is_read_back_from_its_text(made: CondaLock) -> None:
    found = from_text(text_of(made), "here", WANTED, FOLDER)
    assert found == made
    assert text_of(found) == text_of(made)
    for read, written in zip(found.packages, made.packages, strict=True):
        # The build tells whether it is noarch, where nothing else does.
        assert read.described == replace(written.described, noarch=read.described.noarch)


@given(locks)
@settings(max_examples=50, phases=[Phase.explicit, Phase.generate])
def test_rattler_reads_the_same(tmp_path_factory: pytest.TempPathFactory,
                                made: CondaLock) -> None:
    path = tmp_path_factory.mktemp("lock") / "conda.lock"
    path.write_text(text_of(made), encoding="utf-8")
    environment = rattler.LockFile.from_path(path).default_environment()
    assert environment is not None
    assert [str(channel) for channel in environment.channels()] == [
        f"{address(channel, FOLDER)}/" for channel in CHANNELS]
    if not made.packages:
        return
    assert [platform.name for platform in environment.platforms()] == ["linux-64"]
    found = next(iter(environment.packages_by_platform().values()))
    for read, written in zip(sorted(found, key=lambda package: package.name), made.packages,
                             strict=True):
        assert isinstance(read, rattler.lock.CondaLockedBinaryPackage)
        record = read.package_record
        assert record is not None
        assert record.name.normalized == written.name
        assert record.version == rattler.Version(written.version)
        assert (str(record.build), record.subdir, record.size) == (
            written.build, written.subdir, written.size)
        assert record.sha256 == bytes.fromhex(written.sha256.hex)
        assert record.build_number == written.described.build_number
        assert tuple(record.depends) == written.described.depends
        assert tuple(record.constrains) == written.described.constrains
        assert (record.python_site_packages_path or "") == written.described.site_packages
        wanted = f"{address(written.channel, FOLDER)}/{written.subdir}/{written.file}"
        # rattler has a local file by its path
        assert read.location == (unquote(urlsplit(wanted).path) if wanted.startswith("file:")
                                 else wanted)


@pytest.mark.parametrize(("channel", "found"), [
    ("conda-forge", "https://conda.anaconda.org/conda-forge"),
    ("pkgs/main", "https://conda.anaconda.org/pkgs/main"),
    ("https://${USER}:${WORD}@Host.invalid:443/c/", "https://host.invalid/c"),
    ("http://host.invalid:8080/t/${TOKEN}/c d/../é", "http://host.invalid:8080/%C3%A9"),
    ("FILE:///srv/./é 1/", "file:///srv/%C3%A9%201"),
    ("file:///srv/%C3%A9", "file:///srv/%C3%A9"),
    ("./channel", "../../channel"), ("./projects/one/own", "./own"), ("./projects", ".."),
])
def test_a_channel_in_a_lock(channel: str, found: str) -> None:
    assert address(channel, FOLDER) == found
    if "${" not in channel and found.startswith(("http", "file")):
        assert rattler.Channel(channel).base_url == f"{found}/"


def test_the_text() -> None:
    made = a_lock(
        a_package(python=("python==3.11.4",), described=Described(
            build_number=1, depends=("libffi >=3.4,<4", "tzdata"), constrains=("abi 3.11.*",))),
        a_package(name="tzdata", version="2024a", build="0", channel="./channel", subdir="noarch",
                  file="tzdata-2024a-0.tar.bz2", described=Described(noarch="python")))
    assert text_of(made, ("conda-forge", "./channel")) == f"""\
# Pinned by `doit resolve`; commit this file. To move the pins: doit resolve project=NAME upgrade=1
# toolchain: input={INPUT}
version: 6
environments:
  default:
    channels:
    - url: https://conda.anaconda.org/conda-forge/
    - url: ../../channel/
    packages:
      linux-64:
      - conda: https://conda.anaconda.org/conda-forge/linux-64/python-3.11.4-h1_0.conda
      - conda: ../../channel/noarch/tzdata-2024a-0.tar.bz2
packages:
- conda: https://conda.anaconda.org/conda-forge/linux-64/python-3.11.4-h1_0.conda
  build_number: 1
  subdir: linux-64
  sha256: {INPUT.hex}
  depends:
  - libffi >=3.4,<4
  - tzdata
  constrains:
  - abi 3.11.*
  purls:
  - pkg:pypi/python@3.11.4
  size: 3
- conda: ../../channel/noarch/tzdata-2024a-0.tar.bz2
  subdir: noarch
  noarch: python
  sha256: {INPUT.hex}
  size: 3
"""


def test_the_channel_of_another_request_is_no_matter() -> None:
    """Such a lock is asked only for the files that are kept."""
    text = text_of(a_lock(a_package(), a_package(name="b", channel="./gone")))
    found = from_text(text, "here", replace(WANTED, channels=("main",)), FOLDER)
    assert [package.channel for package in found.packages] == [
        "https://conda.anaconda.org/conda-forge", "./gone"][::-1]


GOOD = text_of(a_lock(a_package(described=Described(depends=("a",)))))
FILE = "https://conda.anaconda.org/conda-forge/linux-64/python-3.11.4-h1_0.conda"


@pytest.mark.parametrize(("change", "into", "line", "said"), [
    (GOOD, "", None, "no `# toolchain: input=` lines"),
    (GOOD, 'platform = "linux/amd64"\ninput = "sha256:0"\npackages = [\n]\n', None, "no `# tool"),
    ("version: 6", f"# toolchain: input={INPUT}\nversion: 6", None, "several `# toolchain"),
    ("version: 6", "version: 7", 3, "only version 6 is read"),
    ("version: 6\n", "", 3, "version is missing"),
    ("version: 6", "<<<<<<< HEAD\nversion: 6", 4, "not valid YAML"),
    ("version: 6", "version: 6\nversion: 6", 4, "the key 'version' is there twice"),
    ("  default:", "  test:", 5, "another environment than 'default'"),
    ("    channels:", "    channels: no\n    more:", 6, "this is no list"),
    ("linux-64:", "osx-64:", 15, "this is not for linux/amd64"),
    (f"- conda: {FILE}\n  subdir: linux-64", "- conda: x/../a-1-0.conda", 18,
     "no conda package: ../a-1-0.conda"),
    ("h1_0.conda", "h1_0.sh", 18, "no conda package: linux-64/python-3.11.4-h1_0.sh"),
    (f"      - conda: {FILE}\n", f"      - conda: {FILE}\n      - conda: x\n", 15,
     "others than those that are described below"),
    ("size:", "length:", 18, "size is missing"),
    ("size: 3", "size: three", 23, "this is no number: three"),
    ("size: 3", "size: {}", 23, "this is no text"),
    (INPUT.hex + "\n  dep", "0\n  dep", 18, "not a sha256"),
    ("  - a", "  - [a]", 22, "this is no text"),
    ("  subdir: linux-64", "  subdir: noarch", 19, "the file is in another"),
    ("  size: 3", "  size: 3\n  noarch: perl", 24, "no kind of package: perl"),
    ("  size: 3", "  size: 3\n  purls: ['pkg:pypi/a']", 24, "no distribution with its version"),
    ("  size: 3", f"  size: 3\n- conda: {FILE}\n  sha256: {INPUT.hex}\n  size: 3", 24,
     "python is pinned twice"),
    ("packages:\n-", "packages:\n- 7\n-", 18, "this is no mapping"),
    ("packages:\n-", f"packages: {'[' * 200}{']' * 200}\nx:\n-", 17, "too large or too deep"),
])
def test_a_lock_that_is_damaged_or_dangerous_is_not_read(change: str, into: str, line: int | None,
                                                         said: str) -> None:
    assert change in GOOD
    text = GOOD.replace(change, into)
    with pytest.raises(ResolveError, match="not a lock of conda packages") as caught:
        from_text(text, "projects/one/conda.lock", WANTED, FOLDER)
    assert said in caught.value.what
    where = "projects/one/conda.lock" + ("" if line is None else f":{line}")
    assert caught.value.where.split(",")[0].startswith(where)
    assert "run `doit resolve`" in caught.value.fix


def answering(wanted: CondaRequest, **changes: Any) -> str:
    found = CondaLock(platform="linux/amd64", packages=(a_package(**changes),),
                      input=Digest.of_json(wanted.plan()))
    return to_text(found, wanted.channels, FOLDER)


def test_a_lock_that_is_current_takes_from_no_other_place_than_its_request() -> None:
    text = answering(WANTED)
    assert from_text(text, "here", WANTED, FOLDER).packages == (a_package(),)
    with pytest.raises(ResolveError, match="python is from no channel of the environment file"):
        from_text(text.replace("org/conda-forge/linux", "org/evil/linux"), "here", WANTED, FOLDER)
    with pytest.raises(ResolveError, match="this is not for linux/amd64"):
        from_text(text.replace("linux-64:", "linux-aarch64:"), "here", WANTED, FOLDER)


def test_a_password_in_a_damaged_lock_is_not_shown() -> None:
    text = answering(WANTED).replace("https://conda", "https://me:hunter2@conda").replace(
        "subdir: linux-64", "subdir: noarch")
    with pytest.raises(ResolveError) as caught:
        from_text(text, "here", WANTED, FOLDER)
    assert "hunter2" not in str(caught.value)
