"""turnlog: an async, event-sourced conversation engine.

Conversations are append-only logs; what a model is sent is a projection of the log under a token budget; adapters,
which are imported by their full path, turn the projection into requests and the answers back into events.
"""

from .engine.conversation import Conversation
from .engine.engine import Engine
from .engine.errors import (
    BudgetExceeded,
    Conflict,
    ConversationBusy,
    Invalid,
    NotFound,
    ResponseFailed,
    StoreError,
    TurnlogError,
)
from .engine.ids import ANY, NO_STREAM
from .engine.model import StreamEvent
from .engine.opening import open_engine
from .engine.tools import Tool, ToolContext, tool
from .engine.turns.outcome import Result
from .engine.window.budget import Budget
from .engine.window.window import Window

__all__ = (  # noqa: RUF022 - by what they are for
    # the engine and its conversations
    "open_engine",
    "Engine",
    "Conversation",
    # windows
    "Budget",
    "Window",
    # answers
    "Result",
    "StreamEvent",
    # tools
    "tool",
    "Tool",
    "ToolContext",
    # versions to expect
    "ANY",
    "NO_STREAM",
    # errors
    "TurnlogError",
    "Invalid",
    "BudgetExceeded",
    "NotFound",
    "Conflict",
    "ConversationBusy",
    "ResponseFailed",
    "StoreError",
)
