"""The parts that policies are composed of. Pure, named, versioned; a user's own parts stand beside them.

A part has a name, in which stands whatever it was set to, and a version, which goes up when it would decide otherwise
than before. What it does is one or more of three things:

- `limit(available) -> int`: the tokens up to which a window may grow before it is cut;
- `pins(draft) -> Iterable[Unit]`: units that no part drops;
- `shrink(draft) -> None`: drop and excerpt, through the draft's own `drop` and `excerpt`, as long as it is over.

It may also promise `oldest_first`, as a policy does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, Protocol

from ..checks import whole
from ..errors import Invalid
from .cutting import Draft, blamed, called, check_name
from .units import Unit

__all__ = (
    "LOW",
    "DropTurns",
    "Excerpts",
    "LastTurns",
    "LeaveRoom",
    "Part",
    "Pinned",
    "check_part",
    "pinned_by",
    "shrunk_by",
)

LOW: Final = 0.5
"""The low-water mark: the share of the room down to which a cut goes, so that the next one is far away."""
_ABILITIES: Final = ("limit", "pins", "shrink")


class Part(Protocol):
    """A part of a policy; see above for what it can do."""

    name: str
    version: int


def check_part(part: Any) -> None:
    """See to it that a part is one.

    Raises:
        Invalid: it is not; the message says what it lacks.
    """
    if isinstance(part, type) or not any(callable(getattr(part, ability, None)) for ability in _ABILITIES):
        raise Invalid(f"part={part!r:.100}: a part is needed, such as Excerpts(): it has {' or '.join(_ABILITIES)}")
    check_name(part, "part")


def pinned_by(part: Any, draft: Draft) -> Iterable[Unit]:
    """Return what a part pins.

    Raises:
        Invalid: it is not units.
    """
    if not hasattr(part, "pins"):
        return ()
    with blamed(part, "pins"):
        returned = part.pins(draft)
        pinned = list(returned) if isinstance(returned, Iterable) else [returned]
    for one in pinned:
        if not isinstance(one, Unit):
            raise Invalid(f"{called(part)}: pins() returned {one!r:.100}; units of the draft are needed")
    return pinned


def shrunk_by(part: Any, draft: Draft) -> None:
    """Let a part shrink a window, if it can.

    Raises:
        Invalid: it failed.
    """
    if hasattr(part, "shrink"):
        with blamed(part, "shrink"):
            part.shrink(draft)


class _Named:
    name: str
    version = 1

    def __repr__(self) -> str:
        return f"<{self.name}@{self.version}>"


class Excerpts(_Named):
    """Large tool outputs shrink to their beginnings and ends, from the oldest on; those of the last group stay.

    Args:
        down_to: the share of the room at which it stops.
    """

    oldest_first = True

    def __init__(self, down_to: float = LOW) -> None:
        self.down_to = _share("Excerpts", down_to)
        self.name = _called("excerpts", _unless(LOW, down_to))

    def shrink(self, draft: Draft) -> None:
        """Excerpt what is not of the frontier."""
        for unit in draft.units:
            if not draft.over(self.down_to):
                return
            if unit.at not in draft.frontier:
                draft.excerpt(unit)


class DropTurns(_Named):
    """Whole turns go, from the oldest on, up to where a turn starts; never the current one.

    Args:
        down_to: the share of the room at which it stops.
        keep: so many turns before the current one go only if there is no room for them at all.
    """

    oldest_first = True

    def __init__(self, down_to: float = LOW, keep: int = 1) -> None:
        self.down_to = _share("DropTurns", down_to)
        self.keep = whole("DropTurns: keep", keep, 0, of="turns")
        self.name = _called("drop-turns", _unless(LOW, down_to), _unless(1, keep, "keep="))

    def shrink(self, draft: Draft) -> None:
        """Drop turns while it is over."""
        kept = len(draft.older) - self.keep
        for index, turn in enumerate(draft.older):
            if not draft.over(1.0 if index >= kept else self.down_to):
                return
            for unit in turn:
                draft.drop(unit)


class LastTurns(_Named):
    """All turns go but the last ones, whatever room there is.

    Args:
        turns: so many stay, the current one among them.
    """

    oldest_first = True

    def __init__(self, turns: int) -> None:
        self.turns = whole("LastTurns: turns", turns, 1)
        self.name = _called("last-turns", str(turns))

    def shrink(self, draft: Draft) -> None:
        """Drop what is older."""
        for turn in draft.turns[: max(0, draft.current + 1 - self.turns)]:
            for unit in turn:
                draft.drop(unit)


class Pinned(_Named):
    """What the user said first stays, with the input before it: what all the rest is about.

    Answers to it do not: they may be as long as the window.

    Args:
        first: so many of the user's messages.
    """

    def __init__(self, first: int = 1) -> None:
        self.first = whole("Pinned: first", first, 1, of="messages")
        self.name = _called("pinned", _unless(1, first))

    def pins(self, draft: Draft) -> Iterator[Unit]:
        """Yield the first input, up to the last of those messages."""
        # Messages are counted, not turns: once an answer is dropped, what was asked before and after it is one turn.
        left = self.first
        for unit in draft.units:
            if unit.group.maker != "input":
                continue
            yield unit
            left -= unit.group.entries[0].reading.shape == "user"
            if left == 0:
                return


class LeaveRoom(_Named):
    """A window is cut before it takes all the room there is, so that something else fits beside it.

    A compaction does, that sends the window itself with one more message, to the model that has cached it.

    Args:
        tokens: kept free, but never more than half of the room.
    """

    oldest_first = True

    def __init__(self, tokens: int) -> None:
        self.tokens = whole("LeaveRoom: tokens", tokens, 1)
        self.name = _called("leave-room", str(tokens))

    def limit(self, available: int) -> int:
        """Return what is left for the window."""
        return max(available - self.tokens, available // 2)


def _share(who: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise Invalid(f"{who}: down_to={value!r:.100}: a share of the room is needed, 0 to 1")
    return float(value)


def _unless(default: float, value: float, prefix: str = "") -> str:
    return "" if value == default else f"{prefix}{value:g}"


def _called(name: str, *settings: str) -> str:
    said = ",".join(filter(None, settings))
    return f"{name}({said})" if said else name
