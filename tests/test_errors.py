"""What a user sees of a mistake."""

from __future__ import annotations

import pickle
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain import errors
from toolchain.errors import ResolveError, ToolchainError, nearest, without_credentials

KINDS: list[type[ToolchainError]] = [ToolchainError, *ToolchainError.__subclasses__()]


def test_an_error_says_what_where_and_how_to_fix_it() -> None:
    error = ResolveError("pinned version missing for 'scipy'",
                         where="projects/iris/conda.yaml:7, dependencies[2].pip[0]",
                         fix="run `doit resolve project=iris`, or pin scipy==<version>")
    assert str(error) == (
        "pinned version missing for 'scipy'\n"
        "  at projects/iris/conda.yaml:7, dependencies[2].pip[0]\n"
        "  fix: run `doit resolve project=iris`, or pin scipy==<version>"
    )


def test_a_part_that_is_not_known_leaves_no_empty_line() -> None:
    assert str(ToolchainError("broken")) == "broken"
    assert str(ToolchainError("broken", where="x:1")) == "broken\n  at x:1"
    assert str(ToolchainError("broken", fix="mend it")) == "broken\n  fix: mend it"


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_that_goes_to_another_process_keeps_its_parts(kind: type[ToolchainError]) -> None:
    copy = pickle.loads(pickle.dumps(kind("broken", where="x:1", fix="mend it")))
    assert type(copy) is kind
    assert (copy.what, copy.where, copy.fix) == ("broken", "x:1", "mend it")
    assert copy.args == ("broken",)


def test_there_is_one_kind_for_each_party_at_fault() -> None:
    assert {str(kind.__name__) for kind in KINDS} - {"ToolchainError"} == {
        "ConfigError", "SpecError", "ResolveError", "StoreError", "RegistryError", "EngineError",
        "SweepError", "TrackingError",
    }
    assert all(kind.__module__ == errors.__name__ for kind in KINDS)


def test_a_near_miss_names_the_nearest_word() -> None:
    assert nearest("entry_pionts", ["name", "entry_points"]) == " (did you mean 'entry_points'?)"
    assert nearest("zebra", ["name", "entry_points"]) == ""
    assert nearest("name", []) == ""


@pytest.mark.parametrize(("text", "shown"), [
    ("https://user:secret@host/simple", "https://host/simple"),
    ("https://secret@host:8443", "https://host:8443"),
    ("git+ssh://user:secret@host/a.git@main", "git+ssh://host/a.git@main"),
    ("no https://a:secret@host/ nor https://b:secret@other/", "no https://host/ nor https://other/"),
    ("https://user:secret@sec@ret@host/simple", "https://host/simple"),  # an @ left unquoted
    ("https://host/a@b", "https://host/a@b"),
    ("https://host?mail=a@b", "https://host?mail=a@b"),
    ("at postgresql+psycopg://me:a/b?c#d@host/x", "at postgresql+psycopg://host/x"),
    ("someone@example.invalid", "someone@example.invalid"),
])
def test_credentials_are_taken_out_of_urls_and_nothing_else_is(text: str, shown: str) -> None:
    assert without_credentials(text) == shown


@given(st.text(string.ascii_letters + string.digits + "-._~%!$&'()*+,;=:@", min_size=1))
def test_no_password_survives(password: str) -> None:
    text = f"GET https://user:{password}@host/path failed"
    assert without_credentials(text) == "GET https://host/path failed"
