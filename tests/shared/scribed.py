"""What several tests ask of logs that a scribe has written."""

from turnlog.engine.errors import BudgetExceeded
from turnlog.engine.loading import load
from turnlog.engine.window.budget import Budget
from turnlog.engine.window.choose import Deeper


async def in_pages(scribe, sight, tokens, decide):
    """Return what is decided of a history of which so many tokens are read at first, and more as it is needed."""
    while True:
        _, cold = await load(scribe.store, scribe.name, line=sight.line, tokens=tokens)
        try:
            return await decide(cold, sight)
        except Deeper:
            tokens *= 4


async def needed_for(scribe, target, context, policy):
    """Return what a window needs that does not fit, None where it fits, or less than the context is there for it."""
    try:
        await scribe.window(target, Budget(context), policy=policy)
    except BudgetExceeded as error:
        return error.needed if error.available == context else None
    return None
