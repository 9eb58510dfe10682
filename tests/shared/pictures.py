"""Pictures of any size, as data URLs: a header, and nothing in them."""

import base64
from struct import pack


def png(width, height, rest=0):
    head = b"\x89PNG\r\n\x1a\n" + pack(">I4sII", 13, b"IHDR", width, height)
    return "data:image/png;base64," + base64.b64encode(head + b"\0" * (12 + rest)).decode()
