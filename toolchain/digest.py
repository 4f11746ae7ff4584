"""bytes -> Digest: the only hashing and canonical-JSON code.

Two hashes, two jobs. sha256 names content: blobs, keys, locks. xxh3 only notices change: it
never leaves the machine and is never compared with anything that came from elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import IO, Any

from toolchain.values import dataclass

_HEX = re.compile(r"[0-9a-f]{64}\Z")
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """The sha256 of some bytes, as the OCI image specification names content (descriptor.md)."""

    hex: str

    def __post_init__(self) -> None:
        if not _HEX.match(self.hex):
            raise ValueError(f"not a sha256 in lower-case hexadecimal: {self.hex!r}")

    def __str__(self) -> str:
        return f"sha256:{self.hex}"

    @classmethod
    def parse(cls, text: str) -> Digest:
        """`sha256:<64 hex digits>` -> Digest. Raises ValueError for anything else."""
        if not isinstance(text, str):  # out of somebody else's JSON
            raise ValueError(f"not a sha256 digest: {text!r}")
        algorithm, _, value = text.partition(":")
        if algorithm != "sha256":
            raise ValueError(f"not a sha256 digest: {text!r}")
        return cls(value)

    @classmethod
    def of(cls, data: bytes) -> Digest:
        return cls(hashlib.sha256(data).hexdigest())

    @classmethod
    def of_stream(cls, stream: IO[bytes]) -> Digest:
        """Read `stream` to its end in pieces of 1 MiB."""
        sha = hashlib.sha256()
        while chunk := stream.read(_CHUNK):
            sha.update(chunk)
        return cls(sha.hexdigest())

    @classmethod
    def of_json(cls, value: Any) -> Digest:
        return cls.of(canonical_json(value))


def canonical_json(value: Any) -> bytes:
    """One byte string for one JSON value: sorted keys, no blanks, UTF-8, no NaN.

    Raises ValueError for NaN and infinities, TypeError for what JSON cannot hold.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def fingerprint(data: bytes) -> str:
    """A fast 128-bit fingerprint that notices change on this machine; never names content."""
    import xxhash

    return xxhash.xxh3_128_hexdigest(data)
