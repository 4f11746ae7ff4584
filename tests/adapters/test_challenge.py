"""WWW-Authenticate headers as servers write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.adapters.challenge import parse


@pytest.mark.parametrize(("headers", "expected"), [
    (['Bearer realm="https://auth.docker.io/token",service="registry.docker.io",'
      'scope="repository:a/b:pull,push"'],
     [("bearer", {"realm": "https://auth.docker.io/token", "service": "registry.docker.io",
                  "scope": "repository:a/b:pull,push"})]),
    (['Basic realm="x"'], [("basic", {"realm": "x"})]),
    (["basic"], [("basic", {})]),
    (["Basic REALM=x , charset = UTF-8"], [("basic", {"realm": "x", "charset": "UTF-8"})]),
    (['Bearer realm="a", Basic realm="b"'],
     [("bearer", {"realm": "a"}), ("basic", {"realm": "b"})]),
    (["Negotiate", 'Basic realm="b"'], [("negotiate", {}), ("basic", {"realm": "b"})]),
    (["Negotiate, Basic realm=b"], [("negotiate", {}), ("basic", {"realm": "b"})]),
    (["Negotiate YII==, Basic realm=b"], [("negotiate", {}), ("basic", {"realm": "b"})]),
    ([r'Bearer realm="a \"b\" c\\d"'], [("bearer", {"realm": r'a "b" c\d'})]),
    (['Bearer realm="a",error="invalid_token"'],
     [("bearer", {"realm": "a", "error": "invalid_token"})]),
    ([], []), ([""], []), (["=,="], []), (['Bearer realm="open'], [("bearer", {})]),
    (["a=b"], []),
])
def test_challenges(headers: list[str], expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [(found.scheme, dict(found.parameters)) for found in parse(headers)] == expected


@given(st.text(alphabet='aB= ,"\\;\t', max_size=60))
def test_any_text_is_read_or_passed_over(text: str) -> None:
    parse([text])
