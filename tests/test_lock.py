"""Requests and locks: what is pinned, the two lock files as text, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain import lock
from toolchain.digest import Digest
from toolchain.errors import ResolveError
from toolchain.lock import Lock, Package, Request, base, file, requirements
from toolchain.lock.base import AptPins, BasePins, DebianPackage, Foundation
from toolchain.lock.image import ImagePins
from toolchain.spec import Spec
from toolchain.spec.requirements import Requirements
from toolchain.spec.source import Source

INPUT = Digest.of(b"input")
HEADER = f"# toolchain: python=3.11 platform=linux/amd64 input={INPUT}\n"
PIN = f"alpha==1.0 --hash={Digest.of(b'alpha')}\n"

digests = st.binary(max_size=4).map(Digest.of)
packages = st.builds(
    Package, name=st.from_regex(r"[a-z0-9]+(-[a-z0-9]+){0,2}", fullmatch=True),
    version=st.from_regex(r"([0-9]!)?[0-9]+(\.[0-9]+){0,3}(rc1|\.post2|\+cu121)?", fullmatch=True),
    sha256=digests)
locks = st.builds(
    Lock, python=st.sampled_from(["3.11", "3.13.1"]), platform=st.just("linux/amd64"),
    packages=st.lists(packages, max_size=5, unique_by=lambda package: package.name).map(
        lambda found: tuple(sorted(found))),
    input=digests)
debian = st.builds(
    DebianPackage, name=st.from_regex(r"[a-z0-9][a-z0-9+.-]+", fullmatch=True),
    version=st.from_regex(r"([0-9]:)?[0-9][A-Za-z0-9.+~-]*", fullmatch=True),
    architecture=st.sampled_from(["amd64", "all"]), archive=st.just("debian-security"),
    path=st.from_regex(r"pool/main/[a-z0-9/._+~%-]+\.deb", fullmatch=True),
    size=st.integers(0, 1 << 40), sha256=digests)
pins = st.builds(BasePins, suite=st.sampled_from(["bookworm", "trixie"]),
                 platform=st.sampled_from(["linux/amd64", "linux/arm64"]),
                 packages=st.lists(debian, max_size=3).map(tuple))


class Texts(dict[str, str]):
    """Files in memory; implements toolchain.spec.Reader."""

    def read(self, path: str) -> str | None:
        return self.get(path)


class Newest:
    """Pins every requirement at 2.0, or where it is preferred; implements lock.Resolver."""

    def resolve(self, request: Request, preferred: tuple[Package, ...]) -> tuple[Package, ...]:
        kept = {package.name: package for package in preferred}
        return tuple(reversed([
            kept.get(name, Package(name=name, version="2.0", sha256=Digest.of(name.encode())))
            for name in sorted(request.requirements)]))


class Never:
    """A resolver that nobody may ask."""

    def resolve(self, request: Request, preferred: tuple[Package, ...]) -> tuple[Package, ...]:
        raise AssertionError(request)


def spec(*requirements: str, python: str = "") -> Spec:
    return Spec(name="one", environment="python_env", python=python, requirements=requirements,
                constraints=("alpha<3",), hashes={"beta": ("f" * 64,)}, entry_points={}, files={})


def a_lock(*requirements: str) -> Lock:
    return lock.make(lock.request(spec(*requirements), "3.11", "linux/amd64"), (), Newest())


def test_a_request_takes_the_projects_python_or_the_default() -> None:
    assert lock.request(spec(), "3.11", "linux/amd64").python == "3.11"
    assert lock.request(spec(python="3.13.1"), "3.11", "linux/amd64").python == "3.13.1"


def test_everything_that_decides_the_pins_is_in_the_plan() -> None:
    wanted = lock.request(spec("alpha"), "3.11", "linux/amd64")
    others = [replace(wanted, python="3.13"), replace(wanted, platform="linux/arm64"),
              replace(wanted, requirements=("beta",)), replace(wanted, constraints=()),
              replace(wanted, hashes=())]
    keys = {Digest.of_json(request.plan()) for request in [wanted, *others]}
    assert len(keys) == 6
    assert Digest.of_json(lock.request(spec("alpha"), "3.11", "linux/amd64").plan()) in keys


def test_a_lock_is_sorted_and_knows_what_it_answers() -> None:
    wanted = lock.request(spec("beta", "alpha"), "3.11", "linux/amd64")
    made = lock.make(wanted, (), Newest())
    assert [package.name for package in made.packages] == ["alpha", "beta"]
    assert made.input == Digest.of_json(wanted.plan())


def test_preferred_versions_are_handed_on() -> None:
    old = Package(name="alpha", version="1.0", sha256=Digest.of(b""))
    wanted = lock.request(spec("alpha", "beta"), "3.11", "linux/amd64")
    assert [p.version for p in lock.make(wanted, (old,), Newest()).packages] == ["1.0", "2.0"]


def test_nothing_wanted_needs_no_resolver() -> None:
    made = lock.make(lock.request(spec(), "3.11", "linux/amd64"), (), Never())
    assert made.packages == ()


def test_locks_of_the_same_pins_are_one_environment_whoever_asked() -> None:
    one, two = a_lock("alpha"), replace(a_lock("alpha"), input=INPUT)
    assert one.digest == two.digest
    assert one.digest != a_lock("alpha", "beta").digest
    assert replace(one, python="3.11.7").python_minor == "3.11"


def test_what_moved_is_said_in_a_few_words() -> None:
    old, new = a_lock("alpha", "gone"), a_lock("alpha", "come")
    moved = replace(new, packages=tuple(
        replace(package, version="3.0") if package.name == "alpha" else package
        for package in new.packages))
    assert lock.changes(None, new) == "pinned"
    assert lock.changes(new, new) == "nothing moved"
    assert lock.changes(old, moved) == "changed: +come, -gone, alpha 2.0 -> 3.0"
    many = a_lock(*"abcdefg")
    assert lock.changes(a_lock(), many) == "changed: +a, +b, +c, +d, +e and 2 more"


@given(locks)
def test_a_lock_is_read_back_from_its_text_and_its_json(made: Lock) -> None:
    assert requirements.from_text(requirements.to_text(made), "here") == made
    assert Lock.from_json(made.to_json(), made.input) == made


@given(locks)
def test_the_text_is_a_requirements_file_that_names_no_index(made: Lock) -> None:
    wanted = Requirements()
    wanted.add_file("lock", Texts(lock=requirements.to_text(made)))
    assert wanted.requirements == {f"{item.name}=={item.version}" for item in made.packages}
    assert wanted.hashes == {item.name: {item.sha256.hex} for item in made.packages}


def test_comments_blank_lines_and_order_of_a_lock_do_not_matter() -> None:
    beta = f"beta==1.0 --hash={Digest.of(b'beta')}\n"
    assert requirements.from_text(f"{beta}\n# mine\n{HEADER}{PIN}", "") == requirements.from_text(
        HEADER + PIN.replace(" --", " \\\n --") + beta, "")


@pytest.mark.parametrize("text", ["", PIN, HEADER.replace("sha256", "md5")])
def test_a_lock_made_elsewhere_is_not_read(text: str) -> None:
    with pytest.raises(ResolveError, match="not a lock of this tool") as caught:
        requirements.from_text(text, "projects/one/requirements.lock")
    assert caught.value.where == "projects/one/requirements.lock"
    assert "run `doit resolve`" in caught.value.fix


def test_a_conflict_that_a_merge_left_is_named_with_its_line() -> None:
    with pytest.raises(ResolveError, match="left a conflict here") as caught:
        requirements.from_text(f"{HEADER}<<<<<<< HEAD\n{PIN}=======\n{PIN}>>>>>>> more\n", "a.lock")
    assert caught.value.where == f"a.lock:{HEADER.count(chr(10)) + 1}"


@pytest.mark.parametrize("line", [
    "alpha==1.0", "alpha>=1.0 --hash=sha256:" + "0" * 64, "alpha==1.0 --hash=md5:0123", "=======",
    "Alpha==1.0 --hash=sha256:" + "0" * 64, PIN.strip() + " --hash=sha256:" + "0" * 64,
    "--index-url https://host.invalid/simple", "-r other.txt", "alpha @ file:///a.whl",
])
def test_a_line_that_pins_nothing_is_shown(line: str) -> None:
    with pytest.raises(ResolveError) as caught:
        requirements.from_text(HEADER + PIN + line + "\n", "here")
    assert caught.value.what == f"not a pinned package: {line[:80]}"


def test_a_package_that_is_pinned_twice_is_refused() -> None:
    """Left by a merge of two branches; both would be installed over each other."""
    again = f"alpha==1.1 --hash={Digest.of(b'other')}\n"
    with pytest.raises(ResolveError, match="alpha is pinned twice"):
        requirements.from_text(HEADER + PIN + again, "here")


def test_lock_files_are_read_and_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "requirements.lock"
    assert requirements.read(path, "here") is None
    file.replace(path, HEADER + PIN)
    file.replace(path, HEADER)
    found = requirements.read(path, "here")
    assert found is not None
    assert found.packages == ()
    assert list(tmp_path.iterdir()) == [path]
    path.write_bytes(b"\xff")
    with pytest.raises(ResolveError, match="cannot be read"):
        requirements.read(path, "here")
    with pytest.raises(ResolveError, match="cannot be written"):
        file.replace(path / "below-a-file", "")


@given(st.lists(pins, max_size=3, unique_by=lambda entry: (entry.suite, entry.platform)))
def test_base_pins_are_read_back_from_their_text(entries: list[BasePins]) -> None:
    in_order = tuple(sorted(entries, key=lambda entry: (entry.suite, entry.platform)))
    assert base.from_text(base.to_text(tuple(entries)), "base.lock") == in_order


@pytest.mark.parametrize("text", [
    "[[base]\n", "[[base]]\n", "base = 1\n", 'base = ["x"]\n',
    '[[base]]\nsuite = "s"\nplatform = "p"\npackages = [{name = "a"}]\n',
    '[[base]]\nsuite = "s"\nplatform = "p"\npackages = [{sha256 = "0"}]\n',
])
def test_a_damaged_base_lock_is_named(text: str) -> None:
    with pytest.raises(ResolveError, match=r"base\.lock is damaged") as caught:
        base.from_text(text, "base.lock")
    assert "version control" in caught.value.fix


def test_the_embedded_base_is_for_the_pythons_that_debian_has() -> None:
    assert base.suite_for("3.11.7") == base.suite_for("3.11") == "bookworm"
    assert base.image_for("auto", "3.11.7") == base.image_for("auto", "3.13") == ""


def test_another_python_falls_back_to_the_official_image() -> None:
    assert base.image_for("auto", "3.12") == base.image_for("auto", "3.12.4") == "python:3.12-slim"


def test_a_base_image_that_is_named_is_taken() -> None:
    assert base.image_for("debian:12", "3.11") == "debian:12"
    assert base.image_for("", "3.11") == ""
    assert base.image_for("", "3.12") == "python:3.12-slim"


def test_a_lock_with_places_is_read_back_as_written() -> None:
    """Of a folder only the name stands there; its digest is what it holds at the time."""
    here = Digest.of(b"content")
    folder = Package(name="lib", version="1.0", sha256=here, source="../../my lib#subdirectory=x")
    commit = Package(name="far", version="2.0", sha256=here,
                     source=f"git+https://host.invalid/far@{'a' * 40}#rev=main")
    url = Package(name="url", version="3.0", sha256=here,
                  source="https://host.invalid/url-3.0-py3-none-any.whl?download=1")
    tag = Package(name="tag", version="3.1", sha256=here,
                  source="https://host.invalid/archive/refs/tags/v3.1.zip")
    branch = Package(name="branch", version="3.2", sha256=here, source="./main.tar.gz")
    file = Package(name="file", version="4.0", sha256=here, source="./a b/file-4.0.tar.gz")
    plain = Package(name="plain", version="5.0", sha256=here)
    made = Lock(python="3.11", platform="linux/amd64", input=Digest.of(b""),
                packages=tuple(sorted((folder, commit, url, tag, branch, file, plain))))
    text = requirements.to_text(made)
    for line in text.splitlines():  # pip reads what is no comment, and all of that has a hash
        assert line.startswith(("#", "    --hash=")) or line.endswith(" \\")
    found = requirements.from_text(text, "x")
    assert {item for item in found.packages if not item.is_folder} == {
        commit, url, tag, branch, file, plain}
    assert {item for item in found.packages if item.is_built_here} == {
        commit, next(item for item in found.packages if item.is_folder)}
    settled = lock.Settled(source=Source(kind="folder", location="../../my lib"), package=folder,
                           wheel=here, filename="x")
    assert found.with_folders((settled,)) == made
    assert Lock.from_json(made.to_json(), made.input) == made


def test_what_was_found_in_an_image_decides_what_debian_packages_add_to_it() -> None:
    """Its links and libraries go into what they write; those of the embedded base follow from its
    packages."""
    debs = BasePins(suite="bookworm", platform="linux/amd64", packages=())
    image = ImagePins(reference="acme/python:3.11", platform="linux/amd64", digest=Digest.of(b"1"),
                      glibc="2.36", suite="bookworm", pythons={"3.11": "/usr/bin/python3"},
                      environment=(), labels={}, layers=(), installed={})
    more = replace(image, libraries={"libz.so.1": "/lib/libz.so.1"})

    def key(below: BasePins | ImagePins, on: BasePins | ImagePins) -> str:
        apt = AptPins(base="x", on=base.below_apt(on), suite="bookworm", platform="linux/amd64",
                      wanted=("libgl1",), packages=())
        return Digest.of_json(Foundation(base=below, apt=apt).to_json()).hex

    assert key(image, image) != key(more, more)
    assert key(image, image) != key(replace(image, homes={"/opt/venv/bin": "/usr/bin"}), image)
    assert replace(image, pythons={"3.7": "/a", "3.11": "/b", "3.9": "/c"}).runnable() == {
        "3.9", "3.11"}
    compiled = replace(image, compilers={"3.12": "3.12.1"})
    assert base.below_apt(compiled) == base.below_apt(image) != base.below_apt(more)
    assert key(debs, debs) == key(debs, image)
    assert (Foundation(base=image, apt=None).to_json()
            == Foundation(base=more, apt=None).to_json())
