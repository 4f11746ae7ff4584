"""Digest, canonical JSON and fingerprints."""

from __future__ import annotations

import hashlib
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.digest import Digest, canonical_json, fingerprint

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4),
    max_leaves=20,
)


def test_the_digest_of_no_bytes_is_the_one_everybody_knows() -> None:
    assert str(Digest.of(b"")) == f"sha256:{EMPTY}"


@given(st.binary())
def test_a_digest_is_the_sha256_of_the_bytes(data: bytes) -> None:
    assert Digest.of(data).hex == hashlib.sha256(data).hexdigest()


def test_a_stream_longer_than_one_piece_is_read_to_its_end() -> None:
    data = bytes(range(256)) * 8193  # just over 2 MiB
    assert Digest.of_stream(io.BytesIO(data)) == Digest.of(data)


@given(st.binary())
def test_a_digest_written_as_text_is_read_back(data: bytes) -> None:
    assert Digest.parse(str(Digest.of(data))) == Digest.of(data)


@pytest.mark.parametrize("text", [
    "", EMPTY, f"sha512:{EMPTY}", f"sha256:{EMPTY[:-1]}", f"sha256:{EMPTY}0",
    f"sha256:{EMPTY.upper()}", f"sha256:{EMPTY}\n", f" sha256:{EMPTY}", f"SHA256:{EMPTY}",
    "sha256:" + "g" * 64, "sha256:" + "٣" * 64,
])
def test_what_is_not_a_digest_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a sha256"):
        Digest.parse(text)


def test_digests_are_values_that_sort_and_hash() -> None:
    low, high = Digest("0" * 64), Digest("f" * 64)
    assert sorted([high, low]) == [low, high]
    assert {low, Digest("0" * 64)} == {low}


def test_canonical_json_is_these_bytes() -> None:
    value = {"z": [1, 2.5, None, True], "a": {"é": "\n", "b": ""}}
    expected = '{"a":{"b":"","é":"\\n"},"z":[1,2.5,null,true]}'
    assert canonical_json(value) == expected.encode()


@given(json_values)
def test_canonical_json_holds_the_whole_value(value: Any) -> None:
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), json_values, min_size=2))
def test_the_order_of_keys_does_not_matter(value: dict[str, Any]) -> None:
    backwards = dict(reversed(list(value.items())))
    assert canonical_json(backwards) == canonical_json(value)
    assert Digest.of_json(backwards) == Digest.of_json(value)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_canonical_json_refuses_numbers_that_json_has_not(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"x": number})


def test_canonical_json_refuses_a_set_whose_order_is_chance() -> None:
    with pytest.raises(TypeError):
        canonical_json({"x": {1, 2}})


def test_a_fingerprint_is_128_bits_and_notices_one_bit() -> None:
    assert len(fingerprint(b"")) == 32
    assert fingerprint(b"\x00") == fingerprint(b"\x00")
    assert fingerprint(b"\x00") != fingerprint(b"\x01")
