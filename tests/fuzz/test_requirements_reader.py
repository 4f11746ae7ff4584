"""A short run of tests.fuzz.requirements; the long one is started by hand."""

from __future__ import annotations

import pytest

from tests.fuzz import requirements


def test_whatever_is_in_a_requirements_file_is_read_or_refused() -> None:
    accepted = requirements.run(5_000, seed=7)
    assert 200 < accepted < 4_800  # both happen


def test_a_bug_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail."""
    class Broken(requirements.Files):
        def read(self, path: str) -> str | None:
            raise KeyError(path)

    monkeypatch.setattr(requirements, "Files", Broken)
    with pytest.raises(KeyError):
        requirements.run(10, seed=7)
