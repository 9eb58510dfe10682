"""The errors: one tree, messages that name the thing and the remedy, fields that survive a copy."""

import copy
import pickle

import pytest

from turnlog.engine import errors
from turnlog.engine.errors import (
    AlreadyAnswered,
    AlreadyDecided,
    BudgetExceeded,
    CallsOpen,
    Conflict,
    ConversationBusy,
    CorruptLog,
    Fenced,
    Invalid,
    InvalidItem,
    KeyReused,
    NotFound,
    ResponseFailed,
    StoreError,
    TurnlogError,
    UnknownModel,
    VersionConflict,
)
from turnlog.engine.history import OpenCall

EVERY = {
    Invalid("expected='x': a version is needed"): "expected='x': a version is needed",
    InvalidItem("items[2].role", "'x' is none of user"): "items[2].role: 'x' is none of user",
    UnknownModel("m", "Responses"): (
        "m: context window unknown. Pass Budget(context=…) to Responses(...) or to this call, such as "
        'Responses(client, "m", budget=Budget(context=32_768, reserve=4_096))'
    ),
    UnknownModel("no model was asked yet", "window"): (
        "no model was asked yet: context window unknown. Pass Budget(context=…) to window(...) or to this call, "
        "such as window(Budget(context=32_768, reserve=4_096))"
    ),
    BudgetExceeded(12_000, 8_000): (
        "the pinned items, this turn's input and its last group need 12,000 tokens and 8,000 are available. "
        "Shorten the input, raise Budget(context=…), or lower its reserve."
    ),
    NotFound("conversation c"): "conversation c: not found",
    NotFound("conversation c", deleted=True): "conversation c: deleted",
    Conflict("x"): "x",
    VersionConflict("c", 3, 5): "c: expected version 3, it is 5; read on and decide again",
    VersionConflict("c", 0, 5, created="taken"): (
        "c: there is a conversation of this id already, at version 5; get it, or choose another id"
    ),
    VersionConflict("c", 0, 5, created="deleted"): (
        "c: the conversation of this id was deleted, and its id is never used again; choose another id or key"
    ),
    ConversationBusy("c", 7, 12.3): 'c: turn 7 is running. Try again in 13 s, or pass when_busy="wait".',
    KeyReused("c", "k"): "c: key 'k' was used for other input. A key names one input: choose a new one.",
    CallsOpen("c", [OpenCall("1", "ask", "{}", 4)]): (
        'c: waiting for ask (1): give the output with answer(call_id, …), or pass open_calls="seal".'
    ),
    CallsOpen("c", [OpenCall("1", "pay", "{}", 4, "approval"), OpenCall("2", "send", "{}", 5, state="approved")]): (
        "c: waiting for pay (1), send (2): pass the tool of what a person has approved in tools= (send), or give a "
        "person's decision with decide(call_id, …), or give the output with answer(call_id, …), or pass "
        'open_calls="seal".'
    ),
    AlreadyAnswered("c", "call_1", 9): "c: call call_1 was answered at 9; the first output stands.",
    AlreadyAnswered("c", "", 9): "c: the search without an id was answered at 9; the first output stands.",
    AlreadyDecided("c", "call_1", 9, "was refused"): "c: call call_1 was refused at 9; that stands.",
    Fenced("c", 1, 2): "c: this worker's lease (generation 1) was taken over (now 2); the turn goes on elsewhere.",
    StoreError("log.db: the disk is full", retryable=True): "log.db: the disk is full",
    CorruptLog("c/3: changed"): "c/3: changed",
}


@pytest.mark.parametrize(("error", "message"), EVERY.items(), ids=lambda one: type(one).__name__)
def test_a_message_names_the_thing_and_the_remedy(error, message):
    assert str(error) == message


@pytest.mark.parametrize("error", EVERY, ids=lambda one: type(one).__name__)
def test_an_error_can_be_copied_and_pickled_with_its_fields(error):
    for twin in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)
        assert twin is not error


def test_every_error_has_its_place_in_the_tree():
    listed = {getattr(errors, name) for name in errors.__all__}
    assert listed == {type(error) for error in EVERY} | {TurnlogError, ResponseFailed}
    assert all(issubclass(kind, TurnlogError) and kind.__doc__ for kind in listed)
    branches = (Invalid, NotFound, Conflict, ResponseFailed, StoreError)
    for kind in listed - {TurnlogError}:
        assert sum(issubclass(kind, branch) for branch in branches) == 1
    assert issubclass(Invalid, ValueError)
    assert issubclass(NotFound, LookupError)


@pytest.mark.parametrize(("seconds", "said"), [(59.9995, 60), (0.2, 1), (0, 1), (3, 3)])
def test_a_busy_conversation_says_when_in_whole_seconds(seconds, said):
    """As the header Retry-After has to be."""
    assert str(ConversationBusy("c", 7, seconds).retry_after) == str(said)
