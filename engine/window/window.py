"""The window: what a model would be sent, and why it is as it is."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final, TypeVar, overload

import msgspec

from ..errors import Invalid
from ..events import Target
from ..forms import with_short_id
from ..manifest import Change, Manifest, Span, Verdict, differing
from ..messages import to_messages, with_plain_calls
from .budget import Budget
from .remote import addressed, news
from .render import Rendered

__all__ = ("Tokens", "Window")

_SHOWN: Final = 4
"""Verdicts that stand in what is printed of many."""

V = TypeVar("V", bound=Verdict)


class Tokens(msgspec.Struct, frozen=True):
    """A figure of tokens."""

    total: int
    measured: bool
    """Whether all of it was counted with the tokenizer; false when images or encrypted content were estimated."""
    bound: int
    """By how many tokens it may be off."""


class Window:
    """The projection of a conversation that one request sends."""

    __slots__ = ("budget", "conversation", "manifest", "rendered", "target", "tokens", "version")

    def __init__(
        self, rendered: Sequence[Rendered], manifest: Manifest, target: Target, budget: Budget, conversation: str = ""
    ) -> None:
        self.rendered = rendered
        self.manifest = manifest
        self.target = target
        self.budget = budget
        self.conversation = conversation
        """The conversation's id; empty where it is not known."""
        self.version = manifest.as_of
        self.tokens = Tokens(manifest.tokens, manifest.measured, manifest.bound)

    @property
    def items(self) -> list[dict[str, Any]]:
        """The items in the Responses shape, as `input` would carry them: a client of OpenAI's can send them itself.

        Ids of calls that are too long for the API are shortened here as they are in requests; the log has them whole.
        """
        items = [one.item for one in self.rendered]
        return items if self._is_recorded else [with_short_id(item) for item in items]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The same as Chat Completions messages, as OpenAI itself takes them, in ids and names of calls too.

        What another backend is sent in their place is for its adapter to write: `model.encode(window, settings)`.
        """
        messages = to_messages(self.rendered, recorded=self._is_recorded)
        return messages if self._is_recorded else [with_plain_calls(message) for message in messages]

    @property
    def _is_recorded(self) -> bool:
        return self.target.state == "recorded"

    @property
    def news(self) -> list[Rendered]:
        """What of it the request sends: all, or what its server does not hold already."""
        return news(self.rendered, self.manifest)

    def addressed(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return a request's settings with what its encoder has to know of the server's state."""
        return addressed(settings, self.manifest)

    def explain(self) -> Sequence[Verdict]:
        """Return what became of every seq up to the window's version, in order; made as it is looked at."""
        return _Verdicts([(1, self.manifest.as_of)], self.manifest.why)

    def diff(self, other: Window) -> Sequence[Change]:
        """Return this window's verdict on every seq whose fate is another in *other*, in order, with that one beside.

        So `new.diff(old)` tells what has changed since. What came after one of them is later there. Made as it is
        looked at.

            for change in new.diff(old):
                print(change.seq, change.other.fate, "->", change.fate, change.rule)

        Raises:
            Invalid: *other* is no window, or one of another conversation, whose seqs are other events.
        """
        if not isinstance(other, Window):
            raise Invalid(f"other={other!r:.100}: another window of the same conversation is needed")
        if self.conversation and other.conversation and self.conversation != other.conversation:
            raise Invalid(
                f"other={other!r}: it is of conversation {other.conversation}, and this one of {self.conversation}; "
                "another window of the same conversation is needed"
            )

        def change(seq: int) -> Change:
            verdict = self.manifest.why(seq)
            return Change(verdict.seq, verdict.fate, verdict.rule, verdict.tokens, other.manifest.why(seq))

        return _Verdicts(differing(self.manifest, other.manifest), change)

    def __repr__(self) -> str:
        return f"<Window of {len(self.rendered)} items, {self.tokens.total:,} tokens, as of {self.version}>"


class _Verdicts(Sequence[V]):
    """One verdict for each seq of some spans. There may be millions, so none is made before it is asked for."""

    def __init__(self, spans: Sequence[Span], verdict: Callable[[int], V]) -> None:
        self._spans = spans
        self._verdict = verdict
        self._ends = list(accumulate(last - first + 1 for first, last in spans))
        """How many there are up to the end of each span."""

    def __repr__(self) -> str:
        shown = [repr(one) for one in (self if len(self) <= _SHOWN else self[: _SHOWN - 1])]
        if len(self) > _SHOWN:
            shown += ["...", repr(self[-1])]
        return f"<{len(self):,} verdicts [{', '.join(shown)}]>"

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> V: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[V]: ...

    def __getitem__(self, index: int | slice) -> V | Sequence[V]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        at = index % len(self)
        span = bisect_right(self._ends, at)
        return self._verdict(self._spans[span][1] + 1 - (self._ends[span] - at))
