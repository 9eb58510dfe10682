"""What the bytes of a file tell of how much there is to see, read or hear in it. Pure; malformed files tell nothing.

Sources: the PNG, GIF and RIFF specifications, the frame headers of JPEG (ITU T.81), VP8 (RFC 6386), WebP's container
specification, and MPEG audio (ISO 11172-3).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from struct import error, unpack_from
from typing import Final

__all__ = ("decoded", "media_type", "pages", "pieces", "seconds", "size")

_HEAD: Final = 256 * 1024
"""Bytes of a picture that are looked at: photographs have thumbnails and profiles in front of their size."""


def decoded(data: str, most: int | None = None) -> bytes:
    """Return the bytes that base64 stands for, or as many of their beginning; what is malformed tells nothing."""
    return b"".join(pieces(data if most is None else data[: -(-most // 3) * 4]))


def pieces(data: str) -> Iterator[bytes]:
    """Yield the bytes that base64 stands for, piece by piece: no step takes long enough to hold other threads up."""
    left = ""
    for start in range(0, len(data), _STEP):
        text = left + _FOREIGN.sub("", data[start : start + _STEP]).translate(_STANDARD)
        whole = len(text) // 4 * 4
        yield base64.b64decode(text[:whole])
        left = text[whole:]
    if len(left) > 1:
        yield base64.b64decode(left + "=" * (4 - len(left)))


_STEP: Final = 1 << 19
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9+/_-]")
_STANDARD: Final = str.maketrans("-_", "+/")

_BEGINNINGS: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"%PDF-", "application/pdf"),
    (b"ID3", "audio/mpeg"),
)


def media_type(head: bytes) -> str:
    """Return what a file is by its first bytes, "" when they are of no kind that is known here."""
    if head[:4] == b"RIFF":
        return {b"WEBP": "image/webp", b"WAVE": "audio/wav"}.get(head[8:12], "")
    return next((kind for begin, kind in _BEGINNINGS if head.startswith(begin)), "")


def size(data: str) -> tuple[int, int] | None:
    """Return the width and height of a PNG, JPEG, GIF or WebP picture in base64, None when they cannot be read."""
    head = decoded(data, 96)
    readers = {"image/png": _png, "image/gif": _gif, "image/webp": _webp}
    kind = media_type(head)
    try:
        found = _jpeg(decoded(data, _HEAD)) if kind == "image/jpeg" else readers[kind](head)
    except (error, KeyError, IndexError):
        return None
    return found if found is not None and min(found) > 0 else None


def _png(head: bytes) -> tuple[int, int] | None:
    width, height = unpack_from(">II", head, 16)
    return (width, height) if head[12:16] == b"IHDR" else None


def _gif(head: bytes) -> tuple[int, int]:
    width, height = unpack_from("<HH", head, 6)
    return width, height


def _webp(head: bytes) -> tuple[int, int] | None:
    form = head[12:16]
    if form == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if form == b"VP8L":
        (bits,) = unpack_from("<I", head, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if form == b"VP8 ":
        width, height = unpack_from("<HH", head, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _jpeg(head: bytes) -> tuple[int, int] | None:
    """Walk from segment to segment up to the frame's header, which holds the size."""
    at = 2
    while at < len(head):
        if head[at] != 0xFF:
            return None
        marker = head[at + 1]
        if marker == 0xFF or marker in _ALONE:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in _FRAMES:
            height, width = unpack_from(">HH", head, at + 5)
            return width, height
        at += 2 + int(unpack_from(">H", head, at + 2)[0])
    return None


_FRAMES: Final = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_ALONE: Final = frozenset({0x01, *range(0xD0, 0xD9)})

_PAGE: Final = re.compile(rb"/Type\s*/Page(?![A-Za-z])")
_COUNT: Final = re.compile(rb"/Count\s+(\d{1,6})")
_OVERLAP: Final = 64


def pages(data: str) -> int:
    """Return how many pages a PDF in base64 has, 1 where it does not show: its list of pages may be compressed."""
    found, counted, end = 0, 1, b""
    for piece in pieces(data):
        window = end + piece
        # What lies in the overlap alone was seen with the piece before.
        found += sum(match.end() > len(end) for match in _PAGE.finditer(window))
        counted = max([counted, *map(int, _COUNT.findall(window))])
        end = window[-_OVERLAP:]
    return max(found, counted)


_BITRATES: Final = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
"""Thousands of bits a second of MPEG-1 layer III, by the number in its header."""


def seconds(data: str) -> int | None:
    """Return how long a WAV or MP3 recording in base64 lasts, rounded up; None when that cannot be read."""
    head = decoded(data, 96)
    try:
        if media_type(head) == "audio/wav":
            (rate,) = unpack_from("<I", head, 28)
        else:
            at = _after_tags(head)
            sound = decoded(data[at // 3 * 4 :], 96)[at % 3 :]
            if sound[0] != 0xFF or sound[1] & 0xFE != 0xFA:
                return None
            rate = _BITRATES[sound[2] >> 4] * 125
    except (error, IndexError):
        return None
    return -(-len(data) * 3 // 4 // rate) if rate else None


def _after_tags(head: bytes) -> int:
    """Return where an MP3's sound begins: behind its tags, whose length is written in seven bits a byte."""
    if head[:3] != b"ID3":
        return 0
    length = 0
    for byte in head[6:10]:
        length = length << 7 | byte & 0x7F
    return 10 + length
