"""Canonical JSON: the one byte form of a JSON value that digests, keys and stored items are made of.

UTF-8, object keys in code point order, no spaces, only mandatory escapes, integers in full, floats in their shortest
form, integral floats below 2**53 as integers (so `1.0`, `1` and `-0.0` meet what they equal).

Three doors, by who speaks. `plain` takes values from callers and refuses what has no JSON meaning. `parse` does the
same for JSON text. `salvage` takes text from a provider and refuses nothing that can be read at all: what JSON cannot
carry is replaced, and the replacements are reported. Whatever has passed one of them can be encoded, and read again
at any depth of the stack.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from .errors import InvalidItem

__all__ = (
    "AROUND",
    "MAX_BYTES",
    "MAX_DEPTH",
    "JSONValue",
    "canonical",
    "digest",
    "encode",
    "loads",
    "parse",
    "plain",
    "salvage",
    "written",
)

JSONValue: TypeAlias = "dict[str, JSONValue] | list[JSONValue] | str | int | float | bool | None"

MAX_DEPTH: Final = 100
AROUND: Final = 16
"""Levels that events and requests may have around a value of so many."""
MAX_BYTES: Final = 64 * 1024 * 1024
_INTEGRAL: Final = 2.0**53
_DIGITS: Final = 4000
"""Of an integer, about: Python writes and reads no more than 4,300 of them."""
_BITS: Final = 10_000 * _DIGITS // 3_011

_SURROGATE = re.compile("[\ud800-\udfff]")
_encoder = msgspec.json.Encoder(order="sorted")
loads = msgspec.json.decode
"""Decode bytes that turnlog itself has written."""


def encode(value: Any) -> bytes:
    """Return the canonical bytes of a value that `plain`, `parse` or `salvage` has returned."""
    return _encoder.encode(value)


def canonical(value: Any, path: str = "$", *, wrapped: int = 0) -> bytes:
    """Return the canonical bytes of a caller's value; *wrapped* is as for `plain`.

    >>> from turnlog.engine.canonical import canonical
    >>> canonical({"b": 1.0, "a": [True, None]})
    b'{"a":[true,null],"b":1}'

    Raises:
        InvalidItem: see `plain` and `written`.
    """
    return written(plain(value, path, wrapped=wrapped), path)


def written(value: Any, path: str = "$") -> bytes:
    """Return the canonical bytes of a value that `plain` has returned.

    Raises:
        InvalidItem: they would exceed 64 MiB.
    """
    data = encode(value)
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


def plain(value: Any, path: str = "$", *, wrapped: int = 0) -> Any:
    """Return a caller's value as plain dicts, lists, strings, numbers, booleans and None, in canonical numbers.

    Mappings and sequences of any class are taken, and what has a `model_dump` that gives a mapping. *path* is where the
    value stands, for the error; *wrapped* is how many levels around what is meant do not count.

    >>> plain({"scores": (1.0, float("nan"))})
    Traceback (most recent call last):
    turnlog.engine.errors.InvalidItem: $.scores[1]: nan has no place in JSON; use null or a string

    Raises:
        InvalidItem: NaN or an infinity, a lone surrogate, a key that is no string, nesting deeper than 100, an integer
            of more than some 4,000 digits, a value of another kind, or one that is changed meanwhile.
    """
    try:
        return _plain(value, -wrapped)
    except _Refused as refused:
        raise InvalidItem(path + refused.place, refused.reason) from None
    except RecursionError:
        raise
    except RuntimeError as error:  # of whatever is gone through while somebody adds to it
        raise InvalidItem(path, f"it was changed while it was read ({error}); pass a copy: copy.deepcopy(…)") from error


def _plain(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind is str:
        return value if value.isascii() else _text(value)
    if kind is bool or value is None:
        return value
    if kind is dict:
        return _object(value, depth + 1)
    if kind is list:
        return _array(value, depth + 1)
    if kind is int:
        return _whole(value)
    if kind is float:
        return _number(value)
    return _other(value, depth)


def _object(value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    if depth > MAX_DEPTH:
        raise _Refused(f"nested deeper than {MAX_DEPTH} levels")
    made = {}
    key: Any = None
    try:
        for key, part in value.items():
            made[key if type(key) is str and key.isascii() else _key(key)] = _plain(part, depth)
    except _Refused as refused:
        refused.place = f".{_shown(key)}{refused.place}"
        raise
    return made


def _array(value: Sequence[Any], depth: int) -> list[Any]:
    if depth > MAX_DEPTH:
        raise _Refused(f"nested deeper than {MAX_DEPTH} levels")
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
        raise _Refused(f"object key {key!r:.100} is no string")
    return _text(key)


def _shown(key: object) -> str:
    """Return a key as part of a path that can be printed, whatever it holds."""
    return str(key).encode(errors="backslashreplace").decode()


def _text(value: str) -> str:
    """Return a string, of whatever subclass, as a plain one that UTF-8 can hold."""
    value = str.__str__(value)
    if not _is_utf8(value):
        raise _Refused("a lone surrogate (half of a character) cannot be stored; decode the text with errors='replace'")
    return value


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _whole(value: int) -> int:
    if value.bit_length() > _BITS:
        raise _Refused(f"an integer of more than {_DIGITS:,} digits; use a string")
    return value


def _number(value: float) -> int | float:
    if not math.isfinite(value):
        raise _Refused(f"{value} has no place in JSON; use null or a string")
    return int(value) if value.is_integer() and abs(value) < _INTEGRAL else value


def _other(value: Any, depth: int) -> Any:
    """Take subclasses (enums of str, for one) by their base, mappings and sequences by what they hold, or say."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return _object(value, depth + 1)
    if hasattr(value, "model_dump") and not isinstance(value, type):
        return _object(_dumped(value), depth + 1)
    if isinstance(value, int):
        return _whole(int(value))
    if isinstance(value, float):
        return _number(float(value))
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return _array(value, depth + 1)
    if isinstance(value, _Twice):
        raise _Refused(f"key {value.key!r} occurs twice in one object")
    raise _Refused(f"a {type(value).__name__} is no JSON value")


def _dumped(value: Any) -> dict[str, Any]:
    """Return what an object with `model_dump`, such as openai's are, says of itself: what was set, as on the wire."""
    name = type(value).__name__
    try:
        made = _model_dump(value)
    except ValueError as error:
        raise _Refused(f"a {name} cannot be dumped: {error}") from error
    if not isinstance(made, dict):
        raise _Refused(f"a {name} was dumped as a {type(made).__name__}; a mapping is needed")
    return made


def _model_dump(value: Any) -> Any:
    try:
        # Fields have other names in Python where the wire's name is a keyword ("async").
        return value.model_dump(mode="json", exclude_unset=True, by_alias=True)
    except TypeError:
        return value.model_dump(mode="json", exclude_unset=True)


class _Twice:
    """Stands for an object with a key that occurs twice, until its place is known."""

    def __init__(self, key: str) -> None:
        self.key = key


def _pairs(entries: list[tuple[str, Any]]) -> dict[str, Any] | _Twice:
    value = dict(entries)
    if len(value) == len(entries):
        return value
    return _Twice(Counter(key for key, _ in entries).most_common(1)[0][0])


def _int(literal: str) -> int | float:
    return int(literal) if len(literal) <= _DIGITS else math.inf


_OTHER: Final = object()
_LONG: Final = re.compile(rb"[0-9]{%d}" % _DIGITS)
_WHOLE: Final = re.compile(rb"\.0(?:[],}]|$)")
"""A whole number as a float, which canonical JSON has none of."""


def _as_written(data: bytes) -> Any:
    """Return the value of bytes that are as turnlog writes them, sooner than by looking at each part; else `_OTHER`.

    What is the same when it is written again has no key twice, and nothing that has no place in JSON.
    """
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH or (b".0" in data and _WHOLE.search(data)):
        return _OTHER
    if len(data) >= _DIGITS and _LONG.search(data):
        return _OTHER
    try:
        value = loads(data)
        return value if encode(value) == data else _OTHER
    except ValueError:
        return _OTHER


def parse(text: str | bytes, path: str = "$", *, wrapped: int = 0) -> Any:
    """Return the value of a caller's JSON text, as `plain` does.

    Raises:
        InvalidItem: not JSON or not UTF-8, duplicate keys, or anything that `plain` refuses.
    """
    known = _as_written(text.rstrip()) if isinstance(text, bytes) else _OTHER
    if known is not _OTHER:
        return known
    try:
        value = json.loads(text, object_pairs_hook=_pairs, parse_int=_int)
    except RecursionError:
        raise InvalidItem(path, f"nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise InvalidItem(path, f"not JSON: {error}") from None
    return plain(value, path, wrapped=wrapped)


def salvage(text: str | bytes) -> tuple[Any, list[str]]:
    """Return the value of a provider's JSON text and what had to be replaced in it, by JSON path.

    Invalid UTF-8 and lone surrogates become U+FFFD; NaN, infinities, numbers out of range and what is nested deeper
    than 100 levels become null. Of duplicate keys the last one wins, as in the JSON readers that providers test with.

    >>> salvage('{"score": NaN, "days": 2.0}')
    ({'score': None, 'days': 2}, ['$.score: a number out of range became null'])

    Raises:
        ValueError: it cannot be read as JSON at all.
    """
    try:
        value = _canonical_decoder.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    else:
        if not _may_be_deep(text) or not _is_deep(value):
            return value, []
    repairs: list[str] = []
    if isinstance(text, bytes):
        data = text
        text = data.decode(errors="replace")
        if text.encode() != data:
            repairs.append("$: invalid UTF-8 became U+FFFD")
    try:
        value = json.loads(text.removeprefix("\ufeff"), parse_int=_int)
    except RecursionError:
        raise ValueError("nested too deeply to be read") from None
    return _repaired(value, "$", 0, repairs), repairs


def _may_be_deep(text: str | bytes) -> bool:
    """Return whether a text has enough brackets to be nested too deeply; those inside of strings count too."""
    if len(text) <= 2 * MAX_DEPTH:
        return False
    if isinstance(text, bytes):
        return text.count(b"[") + text.count(b"{") > MAX_DEPTH
    return text.count("[") + text.count("{") > MAX_DEPTH


def _is_deep(value: Any) -> bool:
    """Return whether a value is nested deeper than what is taken."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [part for one in level if isinstance(one, dict | list) for part in _parts(one)]
        if not level:
            return False
    return any(isinstance(one, dict | list) for one in level)


def _parts(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _float(literal: str) -> int | float:
    value = float(literal)
    if not math.isfinite(value):
        raise ValueError(literal)
    return int(value) if value.is_integer() and abs(value) < _INTEGRAL else value


_canonical_decoder = msgspec.json.Decoder(float_hook=_float)


def _repaired(value: Any, path: str, depth: int, repairs: list[str]) -> Any:
    if isinstance(value, dict | list) and depth >= MAX_DEPTH:
        repairs.append(f"{path}: what is nested deeper than {MAX_DEPTH} levels became null")
        return None
    if isinstance(value, dict):
        return {
            _repaired(key, f"{path} (a key)", depth, repairs): _repaired(
                part, f"{path}.{_shown(key)}", depth + 1, repairs
            )
            for key, part in value.items()
        }
    if isinstance(value, list):
        return [_repaired(part, f"{path}[{index}]", depth + 1, repairs) for index, part in enumerate(value)]
    if isinstance(value, str) and not _is_utf8(value):
        repairs.append(f"{path}: a lone surrogate became U+FFFD")
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, float):
        if not math.isfinite(value):
            repairs.append(f"{path}: a number out of range became null")
            return None
        return _number(value)
    return value
