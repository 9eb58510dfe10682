"""What a file's bytes tell of how much is in it; and nothing, whatever they are."""

import base64
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnlog.engine import media
from turnlog.engine.media import decoded, media_type, pages, seconds, size

PNG = b"\x89PNG\r\n\x1a\n" + pack(">I4sIIBBBBB", 13, b"IHDR", 640, 480, 8, 6, 0, 0, 0)
GIF = b"GIF89a" + pack("<HHBBB", 320, 200, 0, 0, 0)
SEGMENT = b"\xff\xe1" + pack(">H", 70_000 % 65_536) + b"thumb\xff\xc0nail" + b"\0" * (70_000 % 65_536 - 13)
FRAME = pack(">HBHHB", 17, 8, 1080, 1920, 3)


def jpeg(marker=0xC0, *, before=b""):
    return b"\xff\xd8" + before + b"\xff" + bytes([marker]) + FRAME + b"\0" * 20


def webp(form, body):
    return b"RIFF" + pack("<I", len(body) + 12) + b"WEBP" + form + pack("<I", len(body)) + body


VP8 = webp(b"VP8 ", b"\0\0\0\x9d\x01\x2a" + pack("<HH", 800 | 1 << 14, 600))
VP8L = webp(b"VP8L", b"\x2f" + pack("<I", 99 | 49 << 14))
VP8X = webp(b"VP8X", b"\0\0\0\0" + (1279).to_bytes(3, "little") + (719).to_bytes(3, "little"))


def base64_of(data):
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("file", "kind", "dimensions"),
    [
        (PNG, "image/png", (640, 480)),
        (GIF, "image/gif", (320, 200)),
        (jpeg(), "image/jpeg", (1920, 1080)),
        (jpeg(0xC2), "image/jpeg", (1920, 1080)),
        (jpeg(before=SEGMENT + b"\xff\xff\xff\xd0"), "image/jpeg", (1920, 1080)),
        (VP8, "image/webp", (800, 600)),
        (VP8L, "image/webp", (100, 50)),
        (VP8X, "image/webp", (1280, 720)),
    ],
    ids=["PNG", "GIF", "JPEG", "progressive", "behind a thumbnail", "WebP", "lossless", "extended"],
)
def test_a_picture_tells_its_size(file, kind, dimensions):
    assert media_type(file) == kind
    assert size(base64_of(file)) == dimensions
    assert size(base64_of(file).replace("+", "-").replace("/", "_").rstrip("=")) == dimensions
    assert size(base64_of(file + b"\0" * 1_000_000)) == dimensions


@pytest.mark.parametrize(
    "file",
    [
        b"",
        b"<svg/>",
        PNG[:20],
        PNG.replace(b"IHDR", b"CgBI"),
        b"\x89PNG\r\n\x1a\n" + pack(">I4sII", 13, b"IHDR", 0, 480),
        jpeg(0xC4)[:40],
        jpeg(before=b"no segment"),
        b"\xff\xd8\xff",
        webp(b"ICCP", b"\0" * 40),
        b"RIFF",
    ],
    ids=["empty", "drawn", "cut short", "odd", "flat", "no frame", "no segment", "a beginning", "no size", "RIFF"],
)
def test_what_tells_no_size(file):
    assert size(base64_of(file)) is None


@pytest.mark.parametrize("text", ["no base64!", "====", "a", "Ab3/" * 100, "é" * 40])
def test_what_is_no_picture_at_all(text):
    assert size(text) is None


@given(st.sampled_from([PNG, GIF, jpeg(), VP8, VP8L, VP8X]), st.binary(max_size=40), st.integers(0, 60))
def test_no_picture_makes_it_fail(file, noise, at):
    found = size(base64_of(file[:at] + noise + file[at + len(noise) :]))
    assert found is None or min(found) > 0


@given(st.text(max_size=60), st.none() | st.integers(0, 40))
def test_decoding_never_fails(text, most):
    assert isinstance(decoded(text, most), bytes)


@given(st.binary(max_size=60))
def test_what_is_base64_is_decoded(data):
    assert decoded(base64_of(data)) == data
    assert decoded(base64.urlsafe_b64encode(data).decode().rstrip("=")) == data


@pytest.mark.parametrize(
    ("file", "number"),
    [
        (b"%PDF-1.7 1 0 obj<</Type/Pages/Kids[2 0 R 3 0 R]/Count 2>> <</Type /Page>> <</Type/Page/Parent 1 0 R>>", 2),
        (b"%PDF-1.4 <</Type/Pages /Count 14 /Kids[...]>>", 14),
        (b"%PDF-1.5 compressed", 1),
        (b"", 1),
    ],
)
def test_a_document_tells_its_pages(file, number):
    assert pages(base64_of(file)) == number


def test_pages_are_counted_once_wherever_pieces_end(monkeypatch):
    file = b"<</Type /Page>>" * 50 + b" " * 70 + b"<</Type/Pages>>"
    for step in (4, 40, 100, 104, 1000):
        monkeypatch.setattr(media, "_STEP", step)
        assert pages(base64_of(file)) == 50
        assert decoded(base64_of(file)) == file
        assert decoded("\n".join(base64_of(file[at : at + 50]) for at in range(0, len(file), 51))) != b""


def test_lines_in_base64_are_passed_over():
    assert decoded(base64.encodebytes(PNG * 9).decode()) == PNG * 9
    assert size(base64.encodebytes(PNG).decode()) == (640, 480)


WAV = b"RIFF" + pack("<I", 36) + b"WAVEfmt " + pack("<IHHIIHH", 16, 1, 1, 8000, 16_000, 2, 16) + b"data"
MP3 = b"\xff\xfb\x90\x00"  # 128,000 bits a second


@pytest.mark.parametrize(
    ("file", "lasting"),
    [
        (WAV + b"\0" * 32_000, 3),
        (MP3 + b"\0" * 15_990, 1),
        (b"ID3\x04\0\0\0\0\0\x0a" + b"\0" * 10 + MP3 + b"\0" * 32_000, 3),
        (b"OggS" + b"\0" * 100, None),
        (b"\xff\xfb\xf0\x00", None),
        (b"\xff\xfb\x00\x00", None),
        (b"ID3\x04\0\0\x7f\x7f\x7f\x7f", None),
        (b"RIFF\0\0\0\0WAVE", None),
        (b"", None),
    ],
    ids=["WAV", "MP3", "tagged", "Ogg", "no such rate", "no rate", "only a tag", "cut short", "empty"],
)
def test_a_recording_tells_how_long_it_lasts(file, lasting):
    assert seconds(base64_of(file)) == lasting
