"""A wheel -> the licence that it declares.

Source: core metadata 2.4, https://packaging.python.org/en/latest/specifications/core-metadata/
"""

from __future__ import annotations

import zipfile
import zlib
from email.parser import HeaderParser
from typing import IO

_LARGEST = 16 << 20  # bytes of a METADATA file
_CLASSIFIER = "License :: "
_LONGEST = 100  # characters; a longer `License` is the licence's whole text


def declared(wheel: IO[bytes]) -> str:
    """An SPDX expression or a name; empty if the wheel declares none or cannot be read.

    License-Expression if there is one. The older License may be any text, so classifiers, which
    are a closed list, go before it unless it is in SPDX's terms.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            found = [item for item in archive.infolist()
                     if item.filename.endswith(".dist-info/METADATA")
                     and item.filename.count("/") == 1 and item.file_size <= _LARGEST]
            text = archive.read(found[0]).decode("utf-8", "replace") if found else ""
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError,
            NotImplementedError):
        return ""  # what is wrong with a wheel is said when its layer is built
    headers = HeaderParser().parsestr(text)
    expression = _line(headers.get("License-Expression"))
    licence = _line(headers.get("License"))
    if expression or _is_spdx(licence):
        return expression or licence
    names = sorted({str(value).rpartition(" :: ")[2].strip()
                    for value in headers.get_all("Classifier", [])
                    if str(value).startswith(_CLASSIFIER) and str(value).count(" :: ") > 1})
    if names:
        return ", ".join(names)
    return "" if licence.upper() in ("UNKNOWN", "NONE") else licence


def _is_spdx(text: str) -> bool:
    from cyclonedx.spdx import fixup_id, is_expression

    return bool(text) and (fixup_id(text) is not None or is_expression(text))


def _line(value: object) -> str:
    """A header's value if it is one short line."""
    text = str(value or "").strip()
    return text if len(text) <= _LONGEST and "\n" not in text else ""
