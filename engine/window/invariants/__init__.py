"""What makes a window valid, one small unit each; together they hold for every history.

Each looks at one unit and may leave items of it out, take its ids away, or ask for a stand-in output. Their order
matters: what an API does not take goes first, pairs are completed next, and reasoning and ids follow from what is left.
"""

from __future__ import annotations

from typing import Final

from ..units import Invariant
from .identity import ids_only_where_accepted
from .origin import secrets_only_to_their_maker
from .pairing import calls_and_outputs_in_pairs
from .reasoning import reasoning_with_what_it_led_to
from .taken import only_what_the_api_takes

__all__ = ("INVARIANTS",)

INVARIANTS: Final[tuple[Invariant, ...]] = (
    only_what_the_api_takes,
    secrets_only_to_their_maker,
    calls_and_outputs_in_pairs,
    reasoning_with_what_it_led_to,
    ids_only_where_accepted,
)
