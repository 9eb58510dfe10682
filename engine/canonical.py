"""Canonical JSON: the one byte form of a JSON value that digests, keys and stored items are made of.

UTF-8, object keys in code point order, no spaces, only mandatory escapes, integers in full, floats in their shortest
form, integral floats below 2**53 as integers (so `1.0`, `1` and `-0.0` meet what they equal).

Three doors, by who speaks. `plain` takes values from callers and refuses what has no JSON meaning. `parse` does the
same for JSON text. `salvage` takes text from a provider and refuses nothing that can be read at all: what JSON cannot
carry is replaced, and the replacements are reported.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NoReturn, TypeAlias

import msgspec

from .errors import InvalidItem

__all__ = ("MAX_BYTES", "MAX_DEPTH", "JSONValue", "canonical", "digest", "encode", "loads", "parse", "plain", "salvage")

JSONValue: TypeAlias = "dict[str, JSONValue] | list[JSONValue] | str | int | float | bool | None"

MAX_DEPTH: Final = 100
MAX_BYTES: Final = 64 * 1024 * 1024
_INTEGRAL: Final = 2.0**53

_SURROGATE = re.compile("[\ud800-\udfff]")
_encoder = msgspec.json.Encoder(order="sorted")
loads = msgspec.json.decode
"""Decode bytes that turnlog itself has written."""


def encode(value: Any) -> bytes:
    """Return the canonical bytes of a value that `plain`, `parse` or `salvage` has returned."""
    return _encoder.encode(value)


def canonical(value: Any, path: str = "$") -> bytes:
    """Return the canonical bytes of a caller's value.

    Raises:
        InvalidItem: see `plain`; also when the bytes would exceed 64 MiB.
    """
    value = plain(value, path)
    try:
        data = encode(value)
    except UnicodeEncodeError:
        raise InvalidItem(*_surrogate(value, path)) from None
    if len(data) > MAX_BYTES:
        raise InvalidItem(
            path, f"{len(data):,} bytes of JSON; at most {MAX_BYTES:,} are taken. Store a reference to it."
        )
    return data


def digest(data: bytes) -> str:
    """Return the SHA-256 of canonical bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


class _Refused(Exception):
    """A value without JSON meaning; the place is added on the way up, so that good input pays nothing for it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.place = ""


def plain(value: Any, path: str = "$") -> Any:
    """Return a caller's value as plain dicts, lists, strings, numbers, booleans and None, in canonical numbers.

    Mappings and sequences of any class are taken. *path* is where the value stands, for the error.

    Raises:
        InvalidItem: NaN or an infinity, a key that is no string, nesting deeper than 100, a value of another kind.
    """
    try:
        return _plain(value, 0)
    except _Refused as refused:
        raise InvalidItem(path + refused.place, refused.reason) from None


def _plain(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if kind is float:
        return _number(value)
    if depth >= MAX_DEPTH:
        raise _Refused(f"nested deeper than {MAX_DEPTH} levels")
    if kind is dict or isinstance(value, Mapping):
        return _object(value, depth + 1)
    if kind is list or kind is tuple:
        return _array(value, depth + 1)
    return _other(value, depth)


def _object(value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    made = {}
    key: Any = None
    try:
        for key, part in value.items():
            made[key if type(key) is str else _key(key)] = _plain(part, depth)
    except _Refused as refused:
        refused.place = f".{key}{refused.place}"
        raise
    return made


def _array(value: Sequence[Any], depth: int) -> list[Any]:
    made: list[Any] = []
    try:
        for part in value:
            made.append(_plain(part, depth))  # noqa: PERF401 - its length is the index that the error names
    except _Refused as refused:
        refused.place = f"[{len(made)}]{refused.place}"
        raise
    return made


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise _Refused(f"object key {key!r} is no string")
    return str.__str__(key)


def _number(value: float) -> int | float:
    if not math.isfinite(value):
        raise _Refused(f"{value} has no place in JSON; use null or a string")
    return int(value) if value.is_integer() and abs(value) < _INTEGRAL else value


def _other(value: Any, depth: int) -> Any:
    """Take subclasses (enums of str, for one) by their base, and sequences that are not lists."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return _number(float(value))
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return _array(value, depth + 1)
    raise _Refused(f"a {type(value).__name__} is no JSON value")


def _surrogate(value: Any, path: str) -> tuple[str, str]:
    """Find the string that UTF-8 cannot hold, to name its place."""
    for place, text in _strings(value, path):
        if not _is_utf8(text):
            return (
                place,
                "a lone surrogate (half of a character) cannot be stored; decode the text with errors='replace'",
            )
    return path, "text that UTF-8 cannot hold"


def _strings(value: Any, path: str) -> Iterable[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield f"{path} (a key)", key
            yield from _strings(part, f"{path}.{key}")
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _strings(part, f"{path}[{index}]")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse(text: str | bytes, path: str = "$") -> Any:
    """Return the value of a caller's JSON text, as `plain` does.

    Raises:
        InvalidItem: not JSON or not UTF-8, duplicate keys, or anything that `plain` refuses.
    """

    def constant(name: str) -> NoReturn:
        raise InvalidItem(path, f"{name} has no place in JSON; use null or a string")

    def pairs(entries: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(entries)
        if len(value) != len(entries):
            keys = [key for key, _ in entries]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise InvalidItem(path, f"key {twice!r} occurs twice in one object")
        return value

    try:
        value = json.loads(text, parse_constant=constant, object_pairs_hook=pairs)
    except InvalidItem:
        raise
    except RecursionError:
        raise InvalidItem(path, f"nested deeper than {MAX_DEPTH} levels") from None
    except (UnicodeDecodeError, ValueError) as error:
        raise InvalidItem(path, f"not JSON: {error}") from None
    return plain(value, path)


def salvage(text: str | bytes) -> tuple[Any, list[str]]:
    """Return the value of a provider's JSON text and what had to be replaced in it, by JSON path.

    Invalid UTF-8 and lone surrogates become U+FFFD; NaN and infinities (numbers out of range too) become null. Of
    duplicate keys the last one wins, as in the JSON readers that providers test with.

    Raises:
        ValueError: it cannot be read as JSON at all.
    """
    try:
        return _canonical_decoder.decode(text), []
    except (msgspec.MsgspecError, UnicodeError, ValueError, RecursionError):
        pass
    repairs: list[str] = []
    if isinstance(text, bytes):
        data = text
        text = data.decode(errors="replace")
        if text.encode() != data:
            repairs.append("$: invalid UTF-8 became U+FFFD")
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply to be read") from None
    return _repaired(value, "$", repairs), repairs


def _float(literal: str) -> int | float:
    value = float(literal)
    if not math.isfinite(value):
        raise ValueError(literal)
    return int(value) if value.is_integer() and abs(value) < _INTEGRAL else value


_canonical_decoder = msgspec.json.Decoder(float_hook=_float)


def _repaired(value: Any, path: str, repairs: list[str]) -> Any:
    if isinstance(value, dict):
        return {
            _repaired(key, f"{path} (a key)", repairs): _repaired(part, f"{path}.{key}", repairs)
            for key, part in value.items()
        }
    if isinstance(value, list):
        return [_repaired(part, f"{path}[{index}]", repairs) for index, part in enumerate(value)]
    if isinstance(value, str) and not _is_utf8(value):
        repairs.append(f"{path}: a lone surrogate became U+FFFD")
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, float):
        if not math.isfinite(value):
            repairs.append(f"{path}: a number out of range became null")
            return None
        return _number(value)
    return value
