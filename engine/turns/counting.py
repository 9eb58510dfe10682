"""Asking a model's API what a window weighs, where the estimate is not sure enough."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from ..errors import Invalid, ResponseFailed
from ..items import Item
from ..model import Model, ModelFailure, merged, settings_of, shape_of
from ..window.window import Tokens, Window
from .outcome import Result, failed

if TYPE_CHECKING:
    from ..conversation import Conversation

__all__ = ("counted", "counter_of")


def counter_of(model: Model) -> Callable[..., Awaitable[int]]:
    """Return how a model asks its API for a count; see `turnlog.engine.model.Counts`.

    Raises:
        Invalid: it cannot.
    """
    shape_of(model)
    ask: Callable[..., Awaitable[int]] | None = getattr(model, "count_input", None)
    if not callable(ask):
        raise Invalid(
            f"{type(model).__name__} cannot ask its API for a count; window(model=...).tokens is an estimate, "
            "with its bound"
        )
    return ask


async def counted(
    conversation: Conversation, model: Model, window: Window, instructions: str | None, tools: Sequence[Item]
) -> Tokens:
    """Return the tokens of the request that would send a window, as the model's API counts them.

    Raises:
        Invalid: the model cannot ask for it.
        ResponseFailed: the API did not say.
    """
    ask = counter_of(model)
    params, transport = merged(shape_of(model).params, None)
    body = model.encode(window, settings_of(model, params, instructions, tools))
    try:
        return Tokens(await ask(body, **transport), measured=True, bound=0)
    except ModelFailure as error:
        raise _failed(conversation, model, window, error) from (error.__cause__ or error)
    except Exception as error:
        # Whatever goes wrong in an adapter is its failure.
        failure = ModelFailure("adapter", f"{type(error).__name__}: {error}")
        raise _failed(conversation, model, window, failure) from error


def _failed(conversation: Conversation, model: Model, window: Window, failure: ModelFailure) -> ResponseFailed:
    result = Result(
        status="incomplete",
        output_text="",
        turn=0,
        version=window.version,
        reason=failure.kind,
        conversation=conversation,
    )
    return failed(model.name, failure, result)
