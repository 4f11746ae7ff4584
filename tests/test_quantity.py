"""Times, sizes and numbers as people write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from toolchain import quantity
from toolchain.config import CALL, PROJECT, Config
from toolchain.errors import ConfigError


@pytest.mark.parametrize(("read", "text", "value"), [
    (quantity.seconds, "90", 90), (quantity.seconds, "90s", 90), (quantity.seconds, "1.5h", 5400),
    (quantity.seconds, "30m", 1800), (quantity.seconds, "1h30m5s", 5405),
    (quantity.seconds, "2d", 172800), (quantity.seconds, "0", 0),
    (quantity.size, "512Mi", 512 << 20), (quantity.size, "2GiB", 2 << 30),
    (quantity.size, "1.5 GiB", 3 << 29), (quantity.size, "2G", 2_000_000_000),
    (quantity.size, "2GB", 2_000_000_000), (quantity.size, "1048576", 1 << 20),
    (quantity.size, "3k", 3000), (quantity.size, "3kB", 3000), (quantity.size, "1TiB", 1 << 40),
    (quantity.processors, "2", 2), (quantity.processors, "0.5", 0.5),
    (quantity.processors, "1500m", 1.5), (quantity.count, "0", 0), (quantity.count, "8", 8)])
def test_quantities(read: Callable[[str], Any], text: str, value: float) -> None:
    assert read(text) == value


@pytest.mark.parametrize(("name", "text"), [
    ("timeout", "soon"), ("timeout", "-5"), ("timeout", "5 m"), ("timeout", "m"),
    ("timeout", "1e3"), ("timeout", "nan"), ("memory", "2g"), ("memory", "2 bytes"),
    ("memory", "-1GiB"), ("memory", "GiB"), ("memory", "2m"), ("cpus", "two"), ("cpus", "inf"),
    ("cpus", "-1"), ("cpus", "0.5m"), ("gpus", "0.5"), ("gpus", "all"), ("shm", "64mb"),
    ("timeout", True), ("cpus", ["2"])])
def test_what_is_no_quantity_is_named_with_its_place(name: str, text: object) -> None:
    with pytest.raises(ConfigError) as caught:
        Config().given({name: text}, scope=PROJECT, where="here")
    assert caught.value.what.startswith(f"{name} is not a quantity: ")
    assert caught.value.where == "here"
    assert caught.value.fix.startswith("write ")


def test_numbers_of_toml_need_no_quotes_and_nothing_takes_a_setting_back() -> None:
    config = Config().given({"timeout": 90, "cpus": 0.5, "gpus": 1, "memory": "2GiB"},
                            scope=PROJECT, where="")
    assert (config.timeout, config.cpus, config.gpus, config.memory) == ("90", "0.5", "1", "2GiB")
    assert config.given({"timeout": "", "cpus": "0"}, scope=CALL, where="").timeout == ""
