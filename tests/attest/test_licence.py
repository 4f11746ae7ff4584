"""What a wheel says of its licence, and that no wheel can break the asking."""

from __future__ import annotations

import io
import zipfile

import pytest

from toolchain.attest.licence import declared


def wheel(metadata: str, path: str = "one-1.0.dist-info/METADATA") -> io.BytesIO:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("one.py", "")
        archive.writestr(path, f"Metadata-Version: 2.4\nName: one\nVersion: 1.0\n{metadata}")
    stream.seek(0)
    return stream


@pytest.mark.parametrize(("metadata", "licence"), [
    ("License-Expression: MIT OR Apache-2.0\nLicense: other\n", "MIT OR Apache-2.0"),
    ("License: mit\nClassifier: License :: OSI Approved :: MIT License\n", "mit"),
    ("License: BSD\nClassifier: License :: OSI Approved :: MIT License\n", "MIT License"),
    ("Classifier: License :: OSI Approved :: MIT License\n"
     "Classifier: License :: OSI Approved :: Apache Software License\n",
     "Apache Software License, MIT License"),
    ("Classifier: License :: OSI Approved\nLicense: BSD-3-Clause\n", "BSD-3-Clause"),
    ("License: UNKNOWN\n", ""),
    ("License: " + "all the words of a licence " * 9 + "\n", ""),
    ("License: first line\n        second line\n", ""),
    ("\nLicense: only in the description\n", ""),
    ("", ""),
])
def test_the_surest_declaration_counts(metadata: str, licence: str) -> None:
    assert declared(wheel(metadata)) == licence


@pytest.mark.parametrize("stream", [
    io.BytesIO(b""), io.BytesIO(b"no zip"), io.BytesIO(wheel("License: MIT\n").getvalue()[:-30]),
    wheel("License: MIT\n", path="vendor/one-1.0.dist-info/METADATA"),
    wheel("License: \udc80".encode("utf-8", "surrogateescape").decode("latin-1")[:9]),
])
def test_a_wheel_that_cannot_be_read_declares_none(stream: io.BytesIO) -> None:
    assert declared(stream) == ""
