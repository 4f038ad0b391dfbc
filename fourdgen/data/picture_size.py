"""How large a picture file is, without decoding it: a folder of hundreds must be checked before any work."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_PNG = b"\x89PNG\r\n\x1a\n"
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG segments that hold the size
_ORIENTATION = 0x0112  # EXIF tag; 5 to 8 mean that the picture is shown on its side


def quick_size(path: Path) -> tuple[int, int] | None:
    """(w, h) as a viewer shows it, from the header of a PNG or JPEG; None for other kinds and for damaged files."""
    try:
        with path.open("rb") as file:
            head = file.read(24)
            if head.startswith(_PNG) and len(head) == 24:
                width, height = struct.unpack(">II", head[16:24])
                return int(width), int(height)
            if head.startswith(b"\xff\xd8"):
                file.seek(2)
                return _jpeg_size(file)
    except (OSError, struct.error, IndexError):
        return None
    return None


def _jpeg_size(file: BinaryIO) -> tuple[int, int] | None:
    """Walks over the segments: EXIF stands before the frame's header. ITU T.81, B.1 and B.2."""
    sideways = False
    while True:
        mark, kind = struct.unpack(">BB", file.read(2))
        while kind == 0xFF:  # fill bytes
            (kind,) = struct.unpack(">B", file.read(1))
        if mark != 0xFF or kind == 0xD9:
            return None
        (length,) = struct.unpack(">H", file.read(2))
        if kind in _FRAMES:
            _, height, width = struct.unpack(">BHH", file.read(5))
            return (height, width) if sideways else (width, height)
        content = file.read(length - 2)
        if kind == 0xE1 and content.startswith(b"Exif\0\0"):
            sideways = _orientation(content[6:]) >= 5


def _orientation(tiff: bytes) -> int:
    """The orientation that EXIF gives, 1 to 8; 1 where it gives none."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    (start,) = struct.unpack(order + "I", tiff[4:8])
    (count,) = struct.unpack(order + "H", tiff[start : start + 2])
    for i in range(count):
        entry = tiff[start + 2 + 12 * i : start + 14 + 12 * i]
        tag, _, _, value = struct.unpack(order + "HHIH", entry[:10])
        if tag == _ORIENTATION:
            return int(value)
    return 1
