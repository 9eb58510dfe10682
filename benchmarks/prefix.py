"""How much of all input a prompt cache can serve, by policy: `python -m benchmarks.prefix [--turns N] [--json]`.

An agent's conversation of turns of 600 tokens, two requests each, under a budget of 32,000. Shared is what a request
begins with as the one before it did, in tokens; a provider serves that from its cache, at a fraction of the price. No
clock is read: the figures are the same on every machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import Any

from turnlog import Budget
from turnlog.engine.testing.prefixes import prefix_of
from turnlog.engine.window.policies import Composed, DropTurns, LastTurns, LeaveRoom, OldestTurns, Pinned, Policy

BUDGET = Budget(32_000)
POLICIES: dict[str, Policy] = {
    "the default": OldestTurns(),
    "with the first question, room for 4,000": Composed(Pinned(), OldestTurns(), LeaveRoom(4_000)),
    "the last 20 turns": Composed(LastTurns(20)),
    "down to three quarters": Composed(DropTurns(0.75)),
    "the newest that fits": Composed(DropTurns(1.0, keep=0)),
}


async def measured(turns: int) -> list[dict[str, Any]]:
    """Return what each policy came to."""
    found = []
    for what, policy in POLICIES.items():
        shares = await prefix_of(policy, BUDGET, turns=turns)
        found.append(
            {
                "policy": f"{policy.name}@{policy.version}",
                "what": what,
                "requests": shares.requests,
                "cuts": shares.cuts,
                "input": shares.input,
                "shared": shares.shared,
                "share": round(shares.share, 4),
            }
        )
    return found


def table(found: list[dict[str, Any]]) -> str:
    """Return the figures for people."""
    lines = [f"{'':41}{'requests':>9}{'cuts':>7}{'input':>14}{'shared':>14}{'':>9}"]
    lines += [
        f"{one['what']:41}{one['requests']:>9,}{one['cuts']:>7,}{one['input']:>14,}{one['shared']:>14,}"
        f"{one['share']:>9.1%}"
        for one in found
    ]
    return "\n".join(lines)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prefix", description=__doc__)
    parser.add_argument("--turns", type=int, default=2_000, help="of the conversation; default: 2,000")
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    asked = parser.parse_args()
    found = asyncio.run(measured(asked.turns))
    print(json.dumps(found, indent=2) if asked.json else table(found))


if __name__ == "__main__":
    main()
