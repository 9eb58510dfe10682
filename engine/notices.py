"""Notices: texts that a server, a library or a refusing model gives where an answer was expected. Pure.

Backends pass them on as their model's words. They are told by how they begin, and only while they are short: what
speaks of an error at length, or of somebody who has met one, is not one.
"""

from __future__ import annotations

import json
import re
from typing import Final, Literal

__all__ = ("notice",)

_SHORT: Final = 500
"""Characters up to which a text that begins like a notice is taken for one."""
_NEAR: Final = 160
"""Characters from its beginning within which words that no summary has tell a notice."""
_PAGE: Final = 100
"""Characters at its beginning by which a page is told."""
_PAGES: Final = ("<html", "<!doctype html", "<?xml", "<error>")

_START: Final = r"\W{0,5}"
_DASH: Final = r" +[-\u2013\u2014] "
_THEN: Final = rf"(\W*$|[.!*`]* *[:({{\[]|,?{_DASH}|\. )"
"""What stands behind the name of an error: nothing, a colon, a bracket, a dash, or another sentence."""


def _any(*forms: str) -> str:
    return f"({'|'.join(forms)})"


_STATUS: Final = re.compile(
    _START
    + r"(error code:? *|status( code)?:? *|error:? +)?(http(/\d(\.\d)?)?[ :]+)?(status( code)?:? *)?[45]\d\d\b"
    + r"( *$| *[:({\[|]|"
    + _DASH
    + r"| +(bad|client|conflict|error|forbidden|gateway|internal|method|not (found|acceptable)|origin|overloaded"
    + r"|payment|precondition|request|server|service|site|too many|unauthori[sz]ed|unprocessable)\b)",
    re.IGNORECASE,
)
"""A status of HTTP."""

_RAISED: Final = re.compile(
    _START
    + _any(
        r"[Tt]raceback \(most recent",
        r"([A-Za-z_]\w*\.)*[A-Z]\w*(Error|Exception|Timeout|Failure)\b( *$| *[:({]|" + _DASH + ")",
    )
)
"""An exception, as it is printed."""

_NAMED: Final = re.compile(
    _START
    + r"((an?|the|some|fatal|unknown|unexpected|internal|upstream|server|api|http|network|connection|gateway|proxy"
    + r"|stream|model|backend|provider|timeout|rate[ _]limit|quota|billing|authentication|permission|validation)[ _])*"
    + _any(
        "error",
        "exception",
        "failure",
        "bad (gateway|request)",
        "service (temporarily |currently )?unavailable",
        "gateway time-?out",
        "(request |connection |read )?timed out",
        "too many requests",
        "rate[ _]limit([ _]exceeded|ed)?",
        r"(request|connection|operation|stream) (failed|refused|aborted|closed|reset( by peer)?)",
        "overloaded([ _]error)?",
        "unauthori[sz]ed",
        "forbidden",
        "access denied",
        "not found",
        "no healthy upstream",
        "no response",
        "insufficient[ _]quota",
        "context[ _]length[ _]exceeded",
        "invalid[ _]request[ _]error",
    )
    + _THEN,
    re.IGNORECASE,
)
"""The name of what went wrong."""

_SAID: Final = re.compile(
    _START
    + r"((sorry|oops|uh-oh|hmm|whoops|apologies)\W+(but )?)?"
    + _any(
        r"(an?|the|some) (\w+ ){0,2}(error|problem|exception) (has |was )?(occurred|encountered|happened)",
        r"the (server|model|service|system|request|upstream|engine)( is| was| has| had)?( \w+)? "
        r"(an error|overloaded|unavailable|failed|timed out|busy|cancell?ed)",
        "something went wrong",
        "(failed|unable) to (generate|get|fetch|process|connect|reach|complete|create)",
        r"there was an? (\w+ )?(error|problem)",
        "could not (connect|reach)",
        "too many requests",
        "rate limit (reached|exceeded)",
        "request (failed|timed out)",
        "maximum context length",
        "this model'?s maximum context",
        "that model is (currently )?overloaded",
        r"the model \S* ?(does not exist|is overloaded)",
    ),
    re.IGNORECASE,
)
"""A sentence that says it."""

_TELLING: Final = re.compile(
    _any(
        "process(ing)? your request",
        "retry your request",
        "contact (us through|support)",
        r"help\.openai\.com",
        "please (try again|retry)",
        "exceeded your current quota",
        "check your plan",
        "rate limit reached for",
        "maximum context length is",
        "reduce the length of",
        "upstream connect error",
        "disconnect/reset before",
        "reset reason:",
        "no healthy upstream",
        "(incorrect|invalid) api key",
        "api key provided",
        "you do not have access to",
        "does not exist or you",
        "does not support (this|the) (parameter|endpoint)",
        "your (account|organi[sz]ation|credit balance) (is|has)",
        "(context_length|rate_limit)_exceeded",
        "insufficient_quota",
        "(invalid_request|overloaded|server|internal)_error",
        "service_unavailable",
    ),
    re.IGNORECASE,
)
"""What servers say to whoever calls them."""

_ABOUT: Final = re.compile(
    _any(
        r"\b(the|an?|this|our|their|his|her) (\w+ )?"
        r"(user|customer|client|assistant|caller|developer|person|team|agent)s?\b",
        r"\b(user|customer|client|assistant|they|he|she) (has|had|have|is|was|were|wants?|got|gets?|asks?|asked"
        r"|saw|sees|met|reports?|reported|said|says|needs?|tried|tries)\b",
    ),
    re.IGNORECASE,
)
"""Who is spoken of in a summary, and not in a notice."""

_QUOTED: Final = re.compile(r"\"[^\"]*\"|“[^”]*”|„[^“”]*[“”]|«[^»]*»|(?<!\w)'[^']*'(?!\w)")

_REFUSAL: Final = re.compile(
    _START
    + _any(
        "(i am|i'm|we are|we're) (very |so |really |truly )?(sorry|afraid)",
        r"(my )?apologies\b",
        "i apologi[sz]e",
        r"(sorry|unfortunately)\W+(but )?(i|we|as an ai)\b",
        "i (can ?not|can't|won't|will not|must decline|am unable|am not able|do not feel|don't feel)",
        "i'm (unable|not able|not comfortable)",
        "as an? (ai|(large )?language model)",
        r"(sorry\W+)?(this|that|your) (request|content|prompt|input) (was |has been |is )?"
        "(flagged|blocked|filtered|rejected|violates|may violate|triggered)",
    )
    + r"\b",
    re.IGNORECASE,
)
"""A summary tells of others: one that begins with what its writer cannot do is none."""


def notice(text: str) -> Literal["error", "refused"] | None:
    """Return what a text is that stands where an answer was expected: an error, or a refusal; None: an answer."""
    text = text.strip().replace("\u2019", "'")
    if _is_data(text):
        return "error"
    if len(text) > _SHORT:
        return None
    if any(form.match(text) for form in (_STATUS, _RAISED, _NAMED)):
        return "error"
    if _REFUSAL.match(text):
        return "refused"
    if _ABOUT.search(text):
        return None
    spoken = _QUOTED.sub("\u2026", text)
    return "error" if _SAID.match(spoken) or _TELLING.search(spoken[:_NEAR]) else None


def _is_data(text: str) -> bool:
    """Return whether a text is a page, or what an API says as JSON."""
    try:
        value = json.loads(text)
    except ValueError:
        return any(page in text[:_PAGE].lower() for page in _PAGES)
    return isinstance(value, dict) and ("error" in value or "detail" in value)
