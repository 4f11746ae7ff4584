"""A shared library that has a name and nothing else (elf(5))."""

from __future__ import annotations

import struct

_HEADER, _PROGRAM_HEADER, _TAG = 64, 56, 16
_LOAD, _DYNAMIC = 1, 2
_STRTAB, _STRSZ, _SONAME = 5, 10, 14


def shared_library(soname: str, *, machine: int = 62) -> bytes:
    """Its bytes. Without a `soname` it does not say what it is called. 62 is x86-64."""
    texts = b"\0" + soname.encode() + b"\0"
    dynamic = _HEADER + 2 * _PROGRAM_HEADER
    tags = [(_STRTAB, dynamic + 4 * _TAG), (_STRSZ, len(texts)), (0, 0), (0, 0)]
    if soname:
        tags.insert(0, (_SONAME, 1))
        tags.pop()
    body = b"".join(struct.pack("<qQ", *tag) for tag in tags) + texts
    size = dynamic + len(body)
    return b"".join((
        b"\x7fELF\x02\x01\x01".ljust(16, b"\0"),
        struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, _HEADER, 0, 0, _HEADER, _PROGRAM_HEADER, 2,
                    0, 0, 0),
        # p_type, p_flags, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align
        struct.pack("<IIQQQQQQ", _LOAD, 4, 0, 0, 0, size, size, 4096),
        struct.pack("<IIQQQQQQ", _DYNAMIC, 4, dynamic, dynamic, dynamic, 4 * _TAG, 4 * _TAG, 8),
        body,
    ))
