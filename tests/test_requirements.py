"""requirements.txt is read as pip reads it, whatever its layout, and normalised."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.errors import SpecError
from toolchain.spec.requirements import Requirements, logical_lines, parse_requirement

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


@pytest.mark.parametrize("line", [
    "./beta", "../beta", "/opt/beta", "file:///opt/beta", "beta @ file:///opt/beta",
    "beta-1.0-py3-none-any.whl", "folder/beta-1.0-py3-none-any.whl", "beta-1.0.tar.gz",
    "beta-1.0.zip", "folder/beta-1.0.tar.gz", "beta-1.0-py3-none-any.whl ; os_name == 'nt'",
    "beta-1.0+local-py3-none-any.whl",
    "https://host.invalid/beta.whl", "git+ssh://git@host.invalid/beta", "-e .", "--editable=.",
    "hg+https://host.invalid/beta", "beta@git+https://host.invalid/beta@main ; os_name == 'nt'",
])
def test_a_requirement_that_no_index_has_is_refused(line: str) -> None:
    error = refusal(f"alpha\n{line}")
    assert error.what.startswith("a requirement from a path or URL is not supported yet: ")
    assert error.where == "requirements.txt:2"


@pytest.mark.parametrize("line", [
    "-i https://user:s3cr3t@host.invalid/simple",
    "-ihttps://user:s3cr3t@host.invalid/simple",
    "--index-url https://user:s3cr3t@host.invalid/simple",
    "--extra-index-url=https://user:s3cr3t@host.invalid/simple",
    "-fhttps://user:s3cr3t@host.invalid/simple",
    "git+https://user:s3cr3t@host.invalid/beta",
    "https://user:p@s3cr3t@host.invalid/beta.whl",
    "-e git+https://user:s3cr3t@host.invalid/beta",
    "beta @ https://user:s3cr3t@host.invalid/beta.whl",
    "beta @ https://user:s3cr3t@host.invalid/beta.whl ; no marker",
    "-r https://user:s3cr3t@host.invalid/requirements.txt",
    "-chttps://user:s3cr3t@host.invalid/requirements.txt",
])
def test_credentials_are_never_in_a_message(line: str) -> None:
    assert "s3cr3t" not in str(refusal(line))


@pytest.mark.parametrize("option", ["--index-url", "-i", "--pre", "--no-binary"])
def test_an_option_is_refused_with_the_place_where_indexes_go(option: str) -> None:
    error = refusal(f"{option} something")
    assert error.what == f"option is not supported yet: {option}"
    assert "configuration" in error.fix


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
