"""What is known of models by their names: their context windows, what frames a request, what pictures weigh. Pure data.

Sources: the model pages and the guide to images of OpenAI's platform documentation, as of November 2026, for the
windows and for pictures in tiles; what the APIs reported of recorded requests for the frames, and for the patches of
gpt-4.1-nano and gpt-5-mini. A name that is not here is nobody's: its window has to be said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, Literal, NamedTuple, TypeAlias

__all__ = ("ANY_FAMILY", "Family", "Frame", "Patches", "Pictures", "Tiles", "Within", "bare_name", "family_of")


class Frame(NamedTuple):
    """The tokens that an API adds to a request beside its messages."""

    primer: int = 3
    """Where the answer begins; and before the first message, where something stands there unseen."""
    tools: int = -3
    """Beside the declarations of tools; `turnlog.engine.schemas` writes a little more there than the API."""
    chat_tools: int = -2
    """The same in Chat Completions."""
    shell: int = 4
    """In Chat Completions, the message that is made for tools where there are no instructions."""


class Tiles(NamedTuple):
    """Pictures weighed in tiles of 512 pixels, once they fit into 2048 and their shorter side is at most 768."""

    base: int
    tile: int

    def tokens(self, width: int, height: int, detail: str) -> int:
        """Return the tokens of a picture."""
        if detail == "low":
            return self.base
        width, height = _within(width, height, 2048)
        shorter = min(width, height)
        if shorter > 768:
            width, height = width * 768 // shorter, height * 768 // shorter
        return self.base + self.tile * -(-width // 512) * -(-height // 512)


class Within(NamedTuple):
    """How large a picture is at most, in one detail: larger ones are shrunk. 0: as large as it is."""

    side: int = 0
    """Pixels of its longer side."""
    patches: int = 0


class Patches(NamedTuple):
    """Pictures weighed in patches of 32 pixels."""

    thousandths: int
    """Tokens of a thousand patches."""
    high: Within
    original: Within | None = None
    """Of the detail "original"; None: there is no such detail."""
    low: Within = Within(512)
    auto: Literal["high", "original"] = "high"
    """The detail where none is said."""

    def tokens(self, width: int, height: int, detail: str) -> int:
        """Return the tokens of a picture."""
        said = detail if detail in ("low", "high", "original") else self.auto
        within = self.low if said == "low" else self.original or self.high if said == "original" else self.high
        if within.side:
            width, height = _within(width, height, within.side)
        patches = -(-width // 32) * -(-height // 32)
        if within.patches:
            patches = min(within.patches, patches)
        return -(-patches * self.thousandths // 1000)


def _within(width: int, height: int, side: int) -> tuple[int, int]:
    longer = max(width, height)
    return (width, height) if longer <= side else (max(1, width * side // longer), max(1, height * side // longer))


Pictures: TypeAlias = Tiles | Patches


class Family(NamedTuple):
    """What is known of some models."""

    context: int
    """Tokens of input and output together; 0: not known."""
    kept: int = 0
    """Of these, what the API gives to no input, however short the answer."""
    frame: Frame = Frame()
    pictures: Pictures = Patches(1200, Within(0, 2500), Within(0, 10_000))
    forgets: bool = False
    """Whether they are not shown their reasoning again once the user has spoken, although they are sent it."""
    free: bool = False
    """Whether their weights are free, so that anybody may serve them."""


ANY_FAMILY: Final = Family(0)
"""Of models that are not known."""

_THINKS: Final = Frame(primer=2, tools=2, chat_tools=84, shell=0)
_OPEN: Final = Frame(primer=63, tools=20, chat_tools=20, shell=0)
_FOUR: Final = Tiles(85, 170)
_FIVE: Final = Tiles(70, 140)
_O: Final = Tiles(75, 150)

_HIGH: Final = Within(2048, 2500)
_WHOLE: Final = Within(2048, 6144)
_LAST: Final = Within(6000, 10_000)
_TWO: Final = Patches(1200, _WHOLE, low=_WHOLE)
_FOURTH: Final = Patches(1200, _HIGH, _LAST, low=_WHOLE)
_FIFTH: Final = Patches(1200, _HIGH, _LAST, auto="original")
_SIXTH: Final = Patches(1200, _HIGH, Within(), auto="original")

_SMALL: Final = Family(400_000, 128_000, _THINKS, forgets=True)
_LARGE: Final = Family(1_050_000, 128_000, _THINKS, forgets=True)
_INSTANT: Final = Family(128_000, 0, _THINKS, forgets=True)
_OLDER: Final = Family(200_000, 0, _THINKS, _O, forgets=True)

_FAMILIES: Final[Mapping[str, Family]] = {
    "gpt-6": _LARGE._replace(pictures=_SIXTH, forgets=False),
    "gpt-6.1": _LARGE._replace(pictures=_SIXTH, forgets=False),
    "gpt-6.2": _LARGE._replace(pictures=_SIXTH, forgets=False),
    "gpt-5.6": _LARGE._replace(pictures=_SIXTH, forgets=False),
    "gpt-5.5": _LARGE._replace(pictures=_FIFTH),
    "gpt-5.5-instant": _SMALL._replace(pictures=_FIFTH),
    "gpt-5.4": _LARGE._replace(pictures=_FOURTH),
    "gpt-5.4-mini": _SMALL._replace(pictures=_FOURTH),
    "gpt-5.4-nano": _SMALL._replace(pictures=_FOURTH),
    "gpt-5.3": _SMALL,
    "gpt-5.3-chat": _INSTANT,
    "gpt-5.3-codex-spark": _INSTANT,
    "gpt-5.2": _SMALL._replace(pictures=_TWO),
    "gpt-5.2-chat": _INSTANT._replace(pictures=_TWO),
    "gpt-5.1": _SMALL._replace(pictures=_FIVE),
    "gpt-5.1-chat": _INSTANT._replace(pictures=_FIVE),
    "gpt-5": _SMALL._replace(pictures=_FIVE),
    "gpt-5-chat": _INSTANT._replace(pictures=_FIVE),
    "gpt-5-mini": _SMALL._replace(pictures=Patches(1200, Within(0, 1536))),
    "gpt-5-nano": _SMALL._replace(pictures=Patches(2460, Within(0, 1536))),
    "gpt-4.5": Family(128_000, pictures=_FOUR),
    "gpt-4.1": Family(1_047_576, pictures=_FOUR),
    "gpt-4.1-mini": Family(1_047_576, pictures=Patches(1620, _WHOLE, low=_WHOLE)),
    "gpt-4.1-nano": Family(1_047_576, pictures=Patches(2460, Within(0, 1536))),
    "gpt-4o": Family(128_000, pictures=_FOUR),
    "gpt-4o-mini": Family(128_000, pictures=Tiles(2833, 5667)),
    "chatgpt-4o": Family(128_000, pictures=_FOUR),
    "gpt-audio": Family(128_000),
    "gpt-audio-mini": Family(128_000),
    "gpt-4-turbo": Family(128_000, pictures=_FOUR),
    "gpt-4-vision": Family(128_000, pictures=_FOUR),
    "gpt-4-1106": Family(128_000),
    "gpt-4-0125": Family(128_000),
    "gpt-4-32k": Family(32_768),
    "gpt-4": Family(8_192),
    "gpt-3.5-turbo": Family(16_385),
    "gpt-3.5-turbo-instruct": Family(4_096),
    "gpt-35-turbo": Family(16_385),
    "o1": _OLDER,
    "o1-mini": _OLDER._replace(context=128_000, frame=_THINKS._replace(primer=10)),
    "o1-preview": _OLDER._replace(context=128_000),
    "o3": _OLDER,
    "o3-mini": _OLDER,
    "o4-mini": _OLDER._replace(pictures=Patches(1720, Within(0, 1536))),
    "codex-mini": _OLDER._replace(pictures=Patches(1720, Within(0, 1536))),
    "computer-use-preview": Family(8_192, pictures=Tiles(65, 129)),
    "gpt-oss": Family(131_072, 0, _OPEN, free=True),
    "gpt-oss-safeguard": Family(131_072, 0, _OPEN, free=True),
}
_SUFFIXES: Final = (
    *("latest", "preview", "pro", "sol", "terra", "luna", "astra", "codex", "codex-max", "codex-mini"),
    *("deep-research", "search-preview", "audio-preview", "16k", "20b", "120b"),
)
"""What may stand behind a family's name, and changes nothing of what is known of it."""
_BEHIND: Final = re.compile(
    rf"(?:[-:](?:{'|'.join(_SUFFIXES)}))?"
    r"(?:[-@]\d{4}-\d\d-\d\d|-(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))?"  # the day of a snapshot
    r"(?:-1:0|:free|:nitro|:floor|:online|:exacto)?"  # how it is served
)


def bare_name(model: str) -> str:
    """Return a model's own name, without who serves it or whose fine-tuning it is.

    >>> bare_name("openai/gpt-5.6-sol"), bare_name("ft:gpt-4o-mini-2024-07-18:acme::8abc")
    ('gpt-5.6-sol', 'gpt-4o-mini-2024-07-18')
    """
    name = model.rsplit("/", 1)[-1].removeprefix("openai.")
    return name.split(":")[1] if name.startswith("ft:") else name


@lru_cache(1024)
def family_of(model: str) -> Family | None:
    """Return what is known of a model, None where nothing is.

    The day of a snapshot falls off its name, and the few suffixes that are known; a name with anything else behind is
    another model's, of which nothing is guessed.

    >>> family_of("gpt-5.1-codex-2025-11-13") == family_of("gpt-5.1"), family_of("gpt-5.9-mini"), family_of("o1-foo")
    (True, None, None)
    """
    name = bare_name(model)
    known = max((one for one in _FAMILIES if name.startswith(one)), key=len, default=None)
    return _FAMILIES[known] if known and _BEHIND.fullmatch(name, len(known)) else None
