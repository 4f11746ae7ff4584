"""What an image would be made of, known before a layer is built: all that decides its layers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from toolchain.chain import Chain
from toolchain.digest import Digest
from toolchain.lock import Lock
from toolchain.lock.image import BaseLayer, ImagePins
from toolchain.stages import published, resolve

_LOCK = Lock(python="3.11", platform="linux/amd64", packages=(), input=Digest.of(b""))


def _pins(layers: int, *, is_occupied: bool = False) -> ImagePins:
    """An image as base.lock has it, with so many layers."""
    return ImagePins(
        reference="acme/python:3.11", platform="linux/amd64", digest=Digest.of(b"1"), glibc="2.36",
        suite="bookworm", pythons={"3.11": "/usr/bin/python3.11"}, environment=(), labels={},
        installed={}, is_occupied=is_occupied, layers=tuple(
            BaseLayer(digest=Digest.of(b"%d" % number), diff_id=Digest.of(b"%d" % number), size=1,
                      media_type="application/vnd.oci.image.layer.v1.tar+gzip")
            for number in range(layers)))


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The plan of a project on an image; `own` says whether that is the project's own."""
    def plan(pins: ImagePins | None, *, own: bool = False) -> dict[str, Any]:
        monkeypatch.setattr(published, "base_image", lambda chain: pins)
        monkeypatch.setattr(resolve, "result", lambda chain: _LOCK)
        monkeypatch.setattr(resolve, "base", lambda chain: {"own packages": True} if own else {})
        chain = SimpleNamespace(found={}, config=SimpleNamespace(image_compression="gzip"))
        return cast("dict[str, Any]", published.base_plan(cast(Chain, chain)))

    return plan


def test_how_many_packages_stand_alone_is_in_the_plan_where_a_base_decides_it(planned: Any) -> None:
    assert "large" not in planned(None)
    assert planned(_pins(24)) == planned(_pins(1))  # as before there was such a limit
    assert [planned(_pins(layers))["large"] for layers in (25, 60, 110)] == [75, 40, 0]


def test_what_is_hidden_of_a_base_is_in_the_plan(planned: Any) -> None:
    assert "hides" not in planned(_pins(1))
    assert planned(_pins(1, is_occupied=True))["hides"] is True
    # An image of the project's own whose Python is elsewhere does not see what is there either.
    assert planned(_pins(1, is_occupied=True), own=True)["hides"] is True
