"""requirements.txt is read as pip reads it, whatever its layout, and normalised."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.errors import SpecError
from toolchain.spec import source as sources
from toolchain.spec.options import Options
from toolchain.spec.requirements import Requirements, logical_lines, parse_requirement
from toolchain.spec.source import Source

HEX = "0123456789abcdef" * 4


class Texts(dict[str, str]):
    """Files in memory; implements toolchain.spec.Reader."""

    def read(self, path: str) -> str | None:
        return self.get(path)


def read(text: str, **others: str) -> Requirements:
    """`more="…"` is the text of more.txt."""
    wanted = Requirements()
    files = {f"{name}.txt": other for name, other in others.items()}
    wanted.add_file("requirements.txt", Texts({"requirements.txt": text, **files}))
    return wanted


def refusal(text: str) -> SpecError:
    with pytest.raises(SpecError) as caught:
        read(text)
    return caught.value


@pytest.mark.parametrize(("line", "normal"), [
    ("scipy", "scipy"),
    ("SciPy == 1.11.4", "scipy==1.11.4"),
    ("scikit_learn", "scikit-learn"),
    ("zope.Interface>=6, <7", "zope-interface<7,>=6"),
    ("ray[Tune,data_x]>=2", "ray[data-x,tune]>=2"),
    ("alpha(>=1)", "alpha>=1"),
    ("alpha;python_version<'3.12'", 'alpha; python_version < "3.12"'),
    ("alpha>=1 ; extra == 'x' or os_name=='nt'", 'alpha>=1; extra == "x" or os_name == "nt"'),
])
def test_a_requirement_has_one_spelling(line: str, normal: str) -> None:
    assert parse_requirement(line, "") == (normal, ())


@pytest.mark.parametrize("name", ["zest.releaser", "beta-2", "zope.zip", "collective.tar"])
def test_a_name_that_looks_like_a_file_is_still_a_name(name: str) -> None:
    assert parse_requirement(f"{name}==1", "")[0] == f"{name.replace('.', '-')}==1"


def test_hashes_are_taken_in_every_form_pip_knows() -> None:
    for option in (f"--hash=sha256:{HEX}", f"--hash sha256:{HEX.upper()}"):
        assert parse_requirement(f"alpha==1 {option}", "") == ("alpha==1", (HEX,))
    both = f"alpha==1 --hash=sha256:{HEX} --hash=sha256:{'0' * 64}"
    assert read(both).hashes == {"alpha": {HEX, "0" * 64}}


@pytest.mark.parametrize("value", ["md5:0123", f"sha256:{HEX[1:]}", f"sha512:{HEX}", HEX])
def test_another_hash_is_refused(value: str) -> None:
    assert refusal(f"alpha==1 --hash={value}").what == f"not a sha256 hash: {value}"


@pytest.mark.parametrize(("text", "lines"), [
    ("", []),
    ("# only\n   # comments\n\n", []),
    ("alpha # why\n", [(1, "alpha")]),
    ("alpha#1", [(1, "alpha#1")]),
    ("\n\nalpha\r\nbeta", [(3, "alpha"), (4, "beta")]),
    ("alpha \\\n  ==1 \\\n  --x\nbeta", [(1, "alpha    ==1    --x"), (4, "beta")]),
    ("alpha \\\n# comment\nbeta", [(1, "alpha"), (3, "beta")]),
    ("alpha \\", [(1, "alpha")]),
    ("# comment \\\nalpha", [(2, "alpha")]),
])
def test_lines_are_joined_as_pip_joins_them(text: str, lines: list[tuple[int, str]]) -> None:
    assert [(number, line.split()) for number, line in logical_lines(text)] == [
        (number, line.split()) for number, line in lines]


@given(st.lists(st.sampled_from(["alpha==1", "beta>=2", "gamma", "# note", ""]), max_size=8),
       st.randoms(use_true_random=False), st.sampled_from(["\n", "\r\n", "\r"]))
def test_order_and_line_ends_do_not_matter(lines: list[str], chance: object, end: str) -> None:
    mixed = sorted(lines, key=lambda _: chance.random())  # type: ignore[attr-defined]
    assert read(end.join(mixed)) == read("\n".join(lines))


def test_files_include_requirements_and_constraints_by_their_own_folder() -> None:
    wanted = Requirements()
    wanted.add_file("deep/a.txt", Texts({
        "deep/a.txt": "alpha\n-r ../b.txt\n--constraint=c/c.txt",
        "b.txt": "beta", "deep/c/c.txt": "alpha<2\n-c d.txt", "deep/c/d.txt": "beta<3",
    }))
    assert wanted.requirements == {"alpha", "beta"}
    assert wanted.constraints == {"alpha<2", "beta<3"}
    assert set(wanted.files) == {"deep/a.txt", "b.txt", "deep/c/c.txt", "deep/c/d.txt"}


def test_files_that_include_each_other_are_read_once() -> None:
    wanted = read("alpha\n-r more.txt", more="beta\n-r requirements.txt\n-r ./more.txt")
    assert wanted.requirements == {"alpha", "beta"}
    assert wanted.files == {"requirements.txt": "-r more.txt\nalpha\n",
                            "more.txt": "-r ./more.txt\n-r requirements.txt\nbeta\n"}


@pytest.mark.parametrize("text", ["-r both.txt\n-c both.txt", "-c both.txt\n-r both.txt"])
def test_a_file_may_both_require_and_constrain(text: str) -> None:
    wanted = read(text, both="alpha==1")
    assert (wanted.requirements, wanted.constraints) == ({"alpha==1"}, {"alpha==1"})


def test_a_missing_file_is_named_with_the_line_that_wants_it() -> None:
    error = refusal("alpha\n\n-r more.txt")
    assert (error.what, error.where) == (
        "no such requirements file: more.txt", "requirements.txt:3")


def test_files_nested_without_end_are_refused() -> None:
    chain = {f"f{n}": f"-r f{n + 1}.txt" for n in range(50)}
    with pytest.raises(SpecError, match="too deeply"):
        read("-r f0.txt", **chain)


PACKAGES = {f"{folder}/pyproject.toml".removeprefix("./"): "" for folder in (
    ".", "beta", "../beta", "libs/beta", "beta/sub")}


def place(line: str) -> tuple[str, ...]:
    """The one source of a line, as people read it."""
    wanted = Requirements()
    wanted.add_file("requirements.txt", Texts({"requirements.txt": line, **PACKAGES}))
    assert wanted.requirements == set()
    return tuple(str(source) for source in wanted.sources)


@pytest.mark.parametrize(("line", "normal"), [
    ("./beta", "./beta"), ("beta/", None), ("../beta", "../beta"), ("libs/beta", "./libs/beta"),
    (".", "."), ("-e .", "."), ("-e .[Gpu,a_b]", ".[a-b,gpu]"), ("--editable=./beta", "./beta"),
    ("file:beta", "./beta"), ("file:./beta", "./beta"), ("beta @ file:../beta", "beta @ ../beta"),
    ("file:///${PROJECT_ROOT}/beta", "./beta"), ("./x/../beta#subdirectory=sub",
                                                 "./beta#subdirectory=sub"),
    ("./beta ; os_name=='nt'", './beta ; os_name == "nt"'),
    ("beta-1.0-py3-none-any.whl", "./beta-1.0-py3-none-any.whl"),
    ("folder/beta-1.0+local.tar.gz", "./folder/beta-1.0+local.tar.gz"),
    ("beta-1.0.zip ; os_name == 'nt'", './beta-1.0.zip ; os_name == "nt"'),
    ("https://host.invalid/beta-1.0.zip", "https://host.invalid/beta-1.0.zip"),
    ("Beta[x] @ https://host.invalid/beta.whl",
     "beta[x] @ https://host.invalid/beta.whl"),
    ("git+ssh://git@host.invalid/beta", "git+ssh://git@host.invalid/beta"),
    ("git+git@host.invalid:me/beta.git@v1", "git+ssh://git@host.invalid/me/beta.git@v1"),
    ("-e git+https://host.invalid/b.git@v1#egg=beta[x]&subdirectory=a/b",
     "beta[x] @ git+https://host.invalid/b.git@v1#subdirectory=a/b"),
    ("beta@git+https://${USER}:${TOKEN}@host.invalid/b@feature/one ; os_name == 'nt'",
     'beta @ git+https://${USER}:${TOKEN}@host.invalid/b@feature/one ; os_name == "nt"'),
    ("git+https://me:${TOKEN}@host.invalid/b", "git+https://me:${TOKEN}@host.invalid/b"),
])
def test_a_place_has_one_spelling(line: str, normal: str | None) -> None:
    if normal is None:
        assert place(line) == ("./beta",)
        return
    assert place(line) == (normal,)
    assert place(normal) == (normal,)


@given(st.sampled_from(["./beta", "../beta", "git+https://host.invalid/x", "git+file:///srv/x",
                        "git+http://host.invalid/x",
                        "https://host.invalid/beta-1.0.zip"]),
       st.sampled_from(["", "beta"]), st.sets(st.sampled_from(["a", "b-c"])),
       st.sampled_from(["", "os_name == \"nt\""]), st.sampled_from(["", "main", "v1.0", "a/b"]),
       st.sampled_from(["", "sub", "a/b"]))
def test_a_source_is_read_back_as_it_was_written(
    location: str, name: str, extras: set[str], marker: str, revision: str, part: str
) -> None:
    git = location.startswith("git+")
    kind = "git" if git else "url" if "://" in location else "folder"
    made = Source(kind=kind, location=location.removeprefix("git+"), name=name,
                  extras=tuple(sorted(extras)) if name or not part else (), marker=marker,
                  revision=revision if git else "", subdirectory=part)
    if name or not (git or made.extras):
        assert sources.read(str(made), (), "") == made
    assert Source.from_json(made.to_json()) == made


@pytest.mark.parametrize(("line", "what"), [
    ("/opt/beta", "an absolute path is true on one machine only: /opt/beta"),
    ("file:///opt/beta", "an absolute path is true on one machine only: /opt/beta"),
    ("beta @ file:///opt/beta", "an absolute path is true on one machine only: /opt/beta"),
    ("~/beta", "an absolute path is true on one machine only: ~/beta"),
    ("./nothing", "no Python package there: ./nothing"),
    ("hg+https://host.invalid/beta", "version control other than git: hg+https://host.invalid/beta"),
    ("git+ftp://host.invalid/beta", "not a git URL that is followed: ftp://host.invalid/beta"),
    ("git+https://host.invalid/beta@--upload-pack=x", "not a git revision: '--upload-pack=x'"),
    ("git+https://host.invalid/beta#subdirectory=../x",
     "a subdirectory leaves its repository: ../x"),
    ("https://host.invalid/beta", "neither a wheel nor a source archive: https://host.invalid/beta"),
    ("ftp://host.invalid/beta.whl", "not a URL that is followed: ftp://host.invalid/beta.whl"),
    (f"./beta --hash=sha256:{HEX}", "a folder has no one hash: ./beta"),
    ("-c more.txt", "a constraint names a path or URL: ./beta"),
    ("alpha --config-settings=x=y", "an option for one requirement is not supported: "
                                    "--config-settings"),
])
def test_a_place_that_is_not_followed_is_refused(line: str, what: str) -> None:
    with pytest.raises(SpecError) as caught:
        Requirements().add_file("requirements.txt", Texts(
            {"requirements.txt": f"gamma\n{line}", "more.txt": "./beta", **PACKAGES}))
    assert caught.value.what == what
    assert caught.value.where.endswith(":2") or line.startswith("-c")


def test_editable_is_said_once() -> None:
    said: list[str] = []
    wanted = Requirements(said.append)
    wanted.add_file("requirements.txt", Texts({"requirements.txt": "-e .\n-e ./beta", **PACKAGES}))
    assert len(said) == 1
    assert "editable" in said[0]


@pytest.mark.parametrize(("text", "lines"), [
    ("-i https://one.invalid/simple\n--index-url=https://two.invalid/simple",
     ("--index-url https://two.invalid/simple",)),
    ("--extra-index-url https://${U}:${P}@a.invalid/s --pre", (
        "--extra-index-url https://${U}:${P}@a.invalid/s", "--pre")),
    ("--find-links ./wheels\n-f https://a.invalid/files", (
        "--find-links ./wheels", "--find-links https://a.invalid/files")),
    ("--no-binary B_x,a\n--only-binary=b.x", ("--no-binary a", "--only-binary b-x")),
    ("--no-binary :all:\n--no-binary :none:\n", ()),
    ("--index-url https://a.invalid/s\n--no-index", ("--no-index",)),
    ("--require-hashes\n--prefer-binary\n--use-feature fast-deps", ()),
    ("--trusted-host a.invalid", ()),
])
def test_options_mean_what_pip_takes_them_for(text: str, lines: tuple[str, ...]) -> None:
    options = read(text).options
    assert options.to_lines() == lines
    assert Options.from_lines(lines).to_lines() == lines


@pytest.mark.parametrize("line", [
    "-i https://user:s3cr3t@host.invalid/simple",
    "-ihttps://user:s3cr3t@host.invalid/simple",
    "--index-url https://user:s3cr3t@host.invalid/simple",
    "--extra-index-url=https://user:s3cr3t@host.invalid/simple",
    "-fhttps://user:s3cr3t@host.invalid/simple",
    "git+https://user:s3cr3t@host.invalid/beta",
    "git+https://s3cr3t@host.invalid/beta",
    "git+https://s3cr3t:@host.invalid/beta",
    "git+ssh://git:s3cr3t@host.invalid/beta",
    "https://user:p@s3cr3t@host.invalid/beta.whl",
    "-e git+https://user:s3cr3t@host.invalid/beta",
    "beta @ https://user:s3cr3t@host.invalid/beta.whl",
    "beta @ https://user:s3cr3t@host.invalid/beta.whl ; no marker",
    "-r https://user:s3cr3t@host.invalid/requirements.txt",
    "-chttps://user:s3cr3t@host.invalid/requirements.txt",
])
def test_credentials_are_never_in_a_message(line: str) -> None:
    assert "s3cr3t" not in str(refusal(line))


@pytest.mark.parametrize(("line", "what"), [
    ("--index-urll x", "option is not supported: --index-urll (did you mean '--index-url'?)"),
    ("--global-option=s3cr3t", "option is not supported: --global-option"),
    ("-x s3cr3t", "option is not supported: -x"),
    ("--no-binary", "option has no value: --no-binary"),
    ("--index-url 'x", "a line of options is not understood: No closing quotation"),
    ("--find-links /srv/wheels", "an absolute path is true on one machine only: /srv/wheels"),
])
def test_an_option_that_is_not_known_is_refused(line: str, what: str) -> None:
    error = refusal(f"alpha\n{line}")
    assert (error.what, error.where) == (what, "requirements.txt:2")
    assert "s3cr3t" not in str(error)


@pytest.mark.parametrize("line", ["=1", "alpha beta", "alpha==", "alpha[", "alpha; nonsense"])
def test_what_is_no_requirement_is_shown_as_it_was_read(line: str) -> None:
    error = refusal(f"# first\n{line}  # comment")
    assert error.what.startswith(f"not a requirement: {line} (")
    assert error.where == "requirements.txt:2"


def test_the_canonical_text_is_sorted_and_without_comments() -> None:
    wanted = read(f"# a\nbeta\n-c more.txt # b\nAlpha==1 --hash=sha256:{HEX.upper()}\nbeta",
                  more="beta < 2")
    assert wanted.files == {
        "requirements.txt": f"-c more.txt\nalpha==1 --hash=sha256:{HEX}\nbeta\n",
        "more.txt": "beta<2\n",
    }


@pytest.mark.parametrize("line", [
    "-r more.txt", "-rmore.txt", "-r 'more.txt'", '--requirement="more.txt"', "-r file:more.txt",
    "-r ./more.txt",
])
def test_another_file_is_named_in_every_way_that_pip_knows(line: str) -> None:
    wanted = read(f"{line}\n", more="alpha\n")
    assert wanted.requirements == {"alpha"}
    assert "more.txt" in wanted.files


@pytest.mark.parametrize("line", ["-r file:///etc/more.txt", "-c file:/etc/more.txt"])
def test_another_file_of_one_machine_is_refused(line: str) -> None:
    error = refusal(f"alpha\n{line}\n")
    assert "requirements file from a URL" in error.what
    assert error.where == "requirements.txt:2"


def test_quotes_around_an_editable_folder() -> None:
    wanted = Requirements()
    wanted.add_file("requirements.txt", Texts({"requirements.txt": '-e "./lib"\n',
                                               "lib/setup.py": ""}))
    assert [source.location for source in wanted.sources] == ["./lib"]


def test_what_pip_freeze_says_of_conda_is_refused_with_the_way_out() -> None:
    error = refusal("alpha\nnumpy @ file:///tmp/build/1/numpy_1/work\n")
    assert error.where == "requirements.txt:2"
    assert "pip list --format=freeze" in error.fix


def test_a_nul_in_a_marker_is_no_bug() -> None:
    """Some releases of `packaging` leave it to Python's own parser, and that refuses it."""
    for line in ("a ; os_name == '\0'", "a[x]>=1 ; '\0' in os_name"):
        try:
            parse_requirement(line, "requirements.txt:1")
        except SpecError as error:
            assert error.where == "requirements.txt:1"  # noqa: PT017
