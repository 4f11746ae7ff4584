"""A package's prefix: replaced in text and in binaries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.conda import PLACEHOLDER
from toolchain.errors import ResolveError
from toolchain.layer.prefix import in_binary, in_text

OLD = PLACEHOLDER.encode()


def test_text_is_replaced_everywhere() -> None:
    assert in_text(b"a=" + OLD + b"/x\nb=" + OLD, PLACEHOLDER, "/opt/venv") == (
        b"a=/opt/venv/x\nb=/opt/venv")


def test_a_binary_keeps_its_length_and_what_follows() -> None:
    data = b"\x7fELF" + OLD + b"/lib:" + OLD + b"/lib64\0next\0" + OLD + b"\0"
    made = in_binary(data, PLACEHOLDER, "/opt/venv", "here")
    saved = len(OLD) - len("/opt/venv")
    assert made == (b"\x7fELF/opt/venv/lib:/opt/venv/lib64" + bytes(2 * saved + 1) + b"next\0"
                    b"/opt/venv" + bytes(saved + 1))


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=6), st.binary(max_size=30))
def test_a_binary_never_changes_its_length(parts: list[bytes], tail: bytes) -> None:
    data = OLD.join(parts) + tail
    made = in_binary(data, PLACEHOLDER, "/opt/venv", "here")
    assert len(made) == len(data)
    strings = made.split(b"\0")[:-1]
    assert not any(OLD in text for text in strings)


def test_a_prefix_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ResolveError, match="is too long for a program") as caught:
        in_binary(b"/old\0", "/old", "/opt/venv", "x.conda, entry bin/x")
    assert caught.value.where == "x.conda, entry bin/x"


@pytest.mark.parametrize(("line", "prefix", "wanted"), [
    ("#!{}/bin/python3.11 -E", "/opt/venv", "#!/opt/venv/bin/python3.11 -E"),
    ("#!{}/bin/python3.11 -E", "/x" * 60, "#!/usr/bin/env python3.11 -E"),
    ("#!{}/bin/python3.11", "/with blank", "#!/usr/bin/env python3.11"),
    ("#! {}/bin/perl", "/x" * 60, "#!/usr/bin/env perl"),
    ("no {}/bin/perl", "/x" * 60, "no " + "/x" * 60 + "/bin/perl"),
])
def test_a_line_that_linux_would_cut_goes_through_env(line: str, prefix: str,
                                                      wanted: str) -> None:
    text = (line.format(PLACEHOLDER) + "\nrest\n").encode()
    assert in_text(text, PLACEHOLDER, prefix) == f"{wanted}\nrest\n".encode()
