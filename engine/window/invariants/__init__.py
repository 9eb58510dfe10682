"""What makes a window valid, one small unit each; together they hold for every history.

Each looks at one group and may leave items of it out, take ids away, or ask for a stand-in output. Their order matters:
what an API does not take goes first, calls are completed next, reasoning and ids follow from what is left, and outputs
from which calls are. What holds between groups comes last of all, on what is sent: programs with their outputs, which
may be of another answer, and no id twice.
"""

from __future__ import annotations

from typing import Final

from ..units import Invariant, Rule
from .identity import ids_only_where_accepted
from .origin import secrets_only_to_their_maker
from .pairing import calls_with_their_outputs, outputs_with_their_calls
from .programs import programs_with_their_outputs
from .reasoning import reasoning_with_what_it_led_to
from .taken import only_what_the_api_takes
from .thoughts import thoughts_where_they_are_wanted
from .uniqueness import each_id_once

__all__ = ("BETWEEN", "INVARIANTS")

INVARIANTS: Final[tuple[Invariant, ...]] = (
    only_what_the_api_takes,
    secrets_only_to_their_maker,
    thoughts_where_they_are_wanted,
    calls_with_their_outputs,
    reasoning_with_what_it_led_to,
    ids_only_where_accepted,
    outputs_with_their_calls,
)

BETWEEN: Final[tuple[Rule, ...]] = (programs_with_their_outputs, each_id_once)
