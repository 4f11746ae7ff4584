"""CondaLock: its key; what decides a request, and what pip may bring instead."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_lock import Texts
from toolchain.digest import Digest
from toolchain.errors import ResolveError, SpecError
from toolchain.lock import Lock
from toolchain.lock import conda as lock
from toolchain.lock.conda import CondaLock, CondaPackage, CondaRequest, Described
from toolchain.spec import Spec
from toolchain.spec.condapip import as_requirements
from toolchain.spec.mlproject import parse

INPUT = Digest.of(b"input")
CHANNELS = ("conda-forge", "./channel", "./projects/one/own é", "https://${WORD}@host.invalid/c",
            "HTTPS://Host.invalid:443/t/${TOKEN}/d/./e/", "file:///srv/é 1", "s3://bucket/f")
names = st.from_regex(r"[a-z][a-z0-9_.-]{0,9}", fullmatch=True)
texts = st.one_of(
    st.from_regex(r"[a-z_][a-z0-9_-]{0,6}( [<>=]{1,2}[0-9.]{1,5}(,<[0-9]{1,3})?( [a-z0-9*_]+)?)?",
                  fullmatch=True),
    st.sampled_from(["no", "y", "null", "7zip", "1.10", "a: b", "a #b", "'x'", '"', "é", "- a",
                     "x\x07y", "{a}", "[b]", "*c", "~", ".inf", "\U0001f600", " a ", "a:", "0x1f"]))
described = st.builds(
    Described, build_number=st.integers(0, 1 << 30), depends=st.lists(texts, max_size=3).map(tuple),
    constrains=st.lists(texts, max_size=2).map(tuple),
    site_packages=st.sampled_from(["", "lib/python3.13t/site-packages"]))
packages = st.builds(
    CondaPackage, name=names, version=st.from_regex(r"[0-9]{1,4}(\.[0-9a-z]{1,3}){0,3}",
                                                    fullmatch=True),
    build=st.from_regex(r"[a-z0-9_]{1,9}", fullmatch=True),
    channel=st.sampled_from(CHANNELS),
    subdir=st.sampled_from(["noarch", "linux-64"]),
    file=st.from_regex(r"[a-z0-9_]{1,4}(-[a-z0-9_.]{1,4})?-([1-9]!)?[0-9]{1,3}(\.[0-9]){0,2}(\+x)?"
                       r"-[a-z0-9_]{1,9}(\.conda|\.tar\.bz2)", fullmatch=True),
    size=st.integers(1, 1 << 40), sha256=st.binary(max_size=4).map(Digest.of),
    python=st.lists(st.sampled_from(["one==1.0", "two-x==1!2.0+cu118", "no==1.10", "é-==1-x"]),
                    max_size=2, unique=True).map(tuple),
    described=described)
locks = st.builds(
    CondaLock, platform=st.just("linux/amd64"), input=st.binary(max_size=4).map(Digest.of),
    packages=st.lists(packages, max_size=5, unique_by=(
        lambda package: package.name, lambda package: package.file)).map(
        lambda found: tuple(sorted(found))))


def a_package(**changes: Any) -> CondaPackage:
    return replace(CondaPackage(
        name="python", version="3.11.4", build="h1_0", channel="conda-forge", subdir="linux-64",
        file="python-3.11.4-h1_0.conda", size=3, sha256=INPUT), **changes)


def a_lock(*found: CondaPackage) -> CondaLock:
    return CondaLock(platform="linux/amd64", packages=found, input=INPUT)


@given(locks)
def test_a_lock_is_read_back_from_its_json(made: CondaLock) -> None:
    assert CondaLock.from_json(made.to_json(), made.input) == made


def test_what_a_channel_says_besides_is_part_of_no_key() -> None:
    told = a_package(described=Described(depends=("a",), build_number=7))
    assert told == a_package()
    assert told.to_json() == a_package().to_json()


def test_a_lock_with_conda_is_another_environment_whoever_asked() -> None:
    plain = Lock(python="3.11.4", platform="linux/amd64", packages=(), input=INPUT)
    with_conda = replace(plain, conda=a_lock(a_package()))
    assert plain.digest != with_conda.digest
    assert "conda" not in plain.to_json()
    asked_elsewhere = replace(with_conda, conda=replace(a_lock(a_package()),
                                                        input=Digest.of(b"other")))
    assert with_conda.digest == asked_elsewhere.digest
    assert Lock.from_json(with_conda.to_json(), INPUT) == with_conda


def test_everything_that_decides_the_packages_is_in_the_plan() -> None:
    virtual = lock.virtual_packages("linux/amd64", "2.36", "")
    wanted = CondaRequest(channels=("a", "b"), packages=("python",), platform="linux/amd64",
                          virtual=virtual, pip=False)
    others = [replace(wanted, channels=("b", "a")), replace(wanted, packages=("python=3.11",)),
              replace(wanted, platform="linux/arm64"), replace(wanted, pip=True),
              replace(wanted, virtual=lock.virtual_packages("linux/amd64", "2.41", "")),
              replace(wanted, virtual=lock.virtual_packages("linux/amd64", "2.36", "12.4"))]
    assert len({Digest.of_json(item.plan()) for item in (wanted, *others)}) == 7


def test_virtual_packages_are_the_images_not_this_machines() -> None:
    assert lock.virtual_packages("linux/arm64", "2.36", "12.4") == (
        ("__archspec", "1", "aarch64"), ("__cuda", "12.4", "0"), ("__glibc", "2.36", "0"),
        ("__linux", "5.10", "0"), ("__unix", "0", "0"))
    with pytest.raises(ResolveError, match="not a version of CUDA"):
        lock.virtual_packages("linux/amd64", "2.36", "new")
    with pytest.raises(ResolveError, match="conda has no packages for"):
        lock.virtual_packages("linux/riscv64", "2.36", "")


def test_python_and_distributions() -> None:
    found = a_lock(a_package(), a_package(name="b", python=("y==2", "x==1.0")))
    assert found.python == "3.11.4"
    assert found.distributions == (("x", "1.0"), ("y", "2"))
    with pytest.raises(ResolveError, match="has no python"):
        a_lock().python  # noqa: B018


@pytest.mark.parametrize(("channel", "name"), [
    ("conda-forge", "conda-forge"), ("pkgs/main", "pkgs/main"), ("./shared/mine", "mine"),
    ("https://${WORD}@host.invalid/some/mine/", "mine"), ("file:///srv/mine", "mine")])
def test_a_channels_name_says_no_host(channel: str, name: str) -> None:
    assert a_package(channel=channel).channel_name == name


def spec_of(text: str) -> Spec:
    return parse("MLproject", "one", Texts({
        "MLproject": "conda_env: conda.yaml\n", "conda.yaml": text}), "3.11", lambda _: None)


wanted_lines = st.lists(st.sampled_from([
    "numpy", "numpy=1.26", "numpy >=1.2,<2", "scipy==1.0=py311_0", "conda-forge::rich",
    "python=3.11", "pip", "blas=*=openblas", "pytorch[build=cuda*]"]),
    min_size=1, max_size=6, unique=True)


def text_of(lines: list[str], channels: list[str], indent: str = "") -> str:
    return ("channels:\n" + "".join(f"{indent}- {name}\n" for name in channels)
            + "dependencies:\n" + "".join(f'{indent}- "{line}"\n' for line in lines))


@given(wanted_lines, st.randoms(), st.sampled_from(["", "  ", "    "]))
def test_order_and_looks_of_packages_do_not_matter(lines: list[str], random: object,
                                                   indent: str) -> None:
    mixed = lines[:]
    random.shuffle(mixed)  # type: ignore[attr-defined]
    before, after = (spec_of(text_of(item, ["a", "b"], space))
                     for item, space in ((lines, ""), (mixed, indent)))
    assert before == after
    # Conda takes blanks around versions and any case of a name.
    loud = spec_of(text_of([line.replace(">=", ">= ").replace("numpy", "NumPy")
                            for line in lines], ["a", "b"]))
    assert loud == before


@given(wanted_lines, st.integers(0, 5), st.sampled_from(["", ",<9", "1", "=x"]))
def test_one_edited_package_is_another_request(lines: list[str], place: int, more: str) -> None:
    at = place % len(lines)
    edited = [*lines[:at], f"other={more.strip(',=<') or 3}", *lines[at + 1:]]
    one, two = spec_of(text_of([*lines, "r-base"], ["a"])), spec_of(
        text_of([*edited, "r-base"], ["a"]))
    assert (one.conda == two.conda) == (lines == edited)


def test_the_order_of_channels_matters() -> None:
    one, two = (spec_of(text_of(["numpy"], order)).conda for order in (["a", "b"], ["b", "a"]))
    assert one != two


@pytest.mark.parametrize(("text", "python", "requirements"), [
    (["python=3.9", "NumPy=1.26", "pip"], "3.9", ("numpy==1.26.*",)),
    (["conda-forge::scikit-learn >=1.0,<2", "pip=23.1"], "",
     ("pip==23.1.*", "scikit-learn<2,>=1.0")),
    (["python=3.9|3.10", "pytorch=1.13*", "matplotlib-base"], "3.10",
     ("matplotlib", "torch==1.13.*")),
])
def test_what_pip_can_bring(text: list[str], python: str, requirements: tuple[str, ...]) -> None:
    wanted = spec_of(text_of([*text, "rich"], ["a"])).conda
    assert wanted is not None
    found = as_requirements(wanted, "3.11")
    assert found == (python, tuple(sorted([*requirements, "rich"])))


@pytest.mark.parametrize("line", ["numpy=1.26=py311_0", "numpy 1.2|1.3", "numpy[build=x]"])
def test_what_only_conda_can_bring(line: str) -> None:
    wanted = spec_of(text_of([line, "rich"], ["a"])).conda
    assert wanted is not None
    with pytest.raises(SpecError, match="only conda can tell"):
        as_requirements(wanted, "3.11")
