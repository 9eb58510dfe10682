"""Small logs for tests of windows: written event by event, with weights that can be added up in the head."""

from turnlog.engine.canonical import encode
from turnlog.engine.codec import event
from turnlog.engine.events import (
    SEAL,
    CompactionUndone,
    ContextCompacted,
    ConversationCreated,
    HistoryRewound,
    ItemAppended,
    Origin,
    ResponseCompleted,
    ResponseFailed,
    ResponseRequested,
    Target,
    Usage,
)
from turnlog.engine.history import History
from turnlog.engine.ids import Position
from turnlog.engine.intake import Intake, as_responses, flags_of
from turnlog.engine.items import accept, read
from turnlog.engine.log import record
from turnlog.engine.manifest import SENT, Manifest
from turnlog.engine.reader import Reader
from turnlog.engine.stores.memory import MemoryStore
from turnlog.engine.testing.judge import refusals
from turnlog.engine.testing.scribe import Sight, body_of
from turnlog.engine.window.budget import Budget
from turnlog.engine.window.choose import Request, choose
from turnlog.engine.window.render import render
from turnlog.engine.window.window import Window

RESPONSES = Target(api="responses", backend="a", model="m")
OTHER_MODEL = Target(api="responses", backend="a", model="n")
OTHER_BACKEND = Target(api="responses", backend="b", model="m")
CHAT = Target(api="chat", backend="c", model="m")
OTHER_CHAT = Target(api="chat", backend="d", model="m")

WEIGHT = 10
"""Tokens of an item for which a test says nothing else."""
AMPLE = Budget(100_000)


# -- items, each under ids that end in its number


def said(number, text="It rains.", **fields):
    part = {"type": "output_text", "text": text, "annotations": []}
    item = {"type": "message", "id": f"msg_{number}", "role": "assistant", "status": "completed", "content": [part]}
    return item | fields


def thought(number, **fields):
    return {"type": "reasoning", "id": f"rs_{number}", "summary": [], "encrypted_content": f"secret {number}"} | fields


def call(number, **fields):
    item = {"type": "function_call", "id": f"fc_{number}", "call_id": f"call_{number}", "name": "look"}
    return item | {"arguments": "{}"} | fields


def custom(number, **fields):
    item = {"type": "custom_tool_call", "id": f"ctc_{number}", "call_id": f"call_{number}", "name": "sh"}
    return item | {"input": "ls"} | fields


def computer(number, **fields):
    item = {"type": "computer_call", "id": f"cu_{number}", "call_id": f"call_{number}", "pending_safety_checks": []}
    return item | {"action": {"type": "screenshot"}, "status": "completed"} | fields


def search(number, **fields):
    action = {"type": "search", "query": "rain"}
    return {"type": "web_search_call", "id": f"ws_{number}", "status": "completed", "action": action} | fields


def program(number, **fields):
    item = {"type": "program", "id": f"pr_{number}", "call_id": f"prog_{number}", "code": "look()"}
    return item | {"fingerprint": "x"} | fields


def program_output(number, **fields):
    item = {"type": "program_output", "id": f"po_{number}", "call_id": f"prog_{number}", "result": "done"}
    return item | {"status": "completed"} | fields


def output(number, text="clear", of="function_call", **fields):
    return {"type": f"{of}_output", "call_id": f"call_{number}", "output": text} | fields


def screenshot(number):
    picture = {"type": "computer_screenshot", "image_url": "data:image/png;base64,iVBORw0KGgo="}
    return output(number, picture, of="computer_call")


def note(number, **fields):
    return {"type": "acme:note", "id": f"at_{number}", "text": "of a kind that nobody knows"} | fields


class SmallLog:
    """A conversation's log. What is written says where it stands: seqs are what its methods return."""

    def __init__(self):
        self.appends = []
        self.records = []
        self.born = {}
        """The ids of items -> the id of the reasoning that they were born with."""
        self._add(event(ConversationCreated()))

    def _add(self, *events):
        first = len(self.records) + 1
        self.appends.append(events)
        made = [record("c", seq, Position(str(seq)), 0, one, first) for seq, one in enumerate(events, first)]
        self.records += made
        return [one.seq for one in made]

    def _item(self, item, response=None, *, tokens=WEIGHT, excerpt=None, flags=0, **beside):
        item, data = accept(item, "$") if isinstance(item, str) else (item, encode(item))
        form = read(item)
        flags |= flags_of(item, form)
        told = ItemAppended(**beside)
        return event(told, item=data, form=form, response=response, tokens=tokens, excerpt=excerpt, flags=flags)

    # -- what callers append

    def say(self, *items, **columns):
        """Append a caller's items at once; a text is a user's message. Return their seqs, or the only one."""
        seqs = self._add(*as_responses([self._item(item, **columns) for item in items]))
        return seqs if len(seqs) > 1 else seqs[0]

    def seal(self, number, of="function_call"):
        """Append an output that says that a call was not carried out."""
        return self.say(output(number, "[never ran]", of=of), flags=SEAL)

    # -- what models answer

    def ask(self, target=RESPONSES, budget=None, policy=None, *, manifest=None, continues=False, **more):
        """Log a request; with a budget its window is chosen, so that later ones continue it.

        *manifest* is that of a window that was chosen before; *continues* says that what it answers are outputs.
        """
        manifest = manifest or Manifest(policy="none@1", renderer=1, as_of=len(self.records))
        if budget is not None:
            manifest = self.window(target, budget, policy, **more).manifest
        whom = {"adapter": target.api, "encoder": 1, "target": target, "continues": continues}
        told = ResponseRequested(**whom, settings="0" * 64, manifest=manifest, digest="0" * 64)
        return self._add(event(told))[0]

    def give(self, asked, *items, **columns):
        """Append items of an answer that is under way. Return their seqs, or the only one."""
        seqs = self._add(*(self._item(item, asked, **columns) for item in items))
        self.born |= _born(items)
        return seqs[0] if len(seqs) == 1 else seqs

    def end(self, asked, usage=None):
        reported = None if usage is None else Usage(input_tokens=usage, output_tokens=1, requests=1)
        return self._add(event(ResponseCompleted(usage=reported), response=asked))[0]

    def fail(self, asked):
        return self._add(event(ResponseFailed(kind="model", code="server_error"), response=asked))[0]

    def answer(self, *items, target=RESPONSES, usage=None, continues=False, **columns):
        """Log a request, its answer and its end. Return the items' seqs, or the only one."""
        asked = self.ask(target, continues=continues)
        seqs = self.give(asked, *items, **columns)
        self.end(asked, usage)
        return seqs

    # -- what changes the path

    def compact(self, last, *stand_in, tokens=WEIGHT, origin=RESPONSES):
        maker = Origin(origin.api, origin.backend, origin.model)
        told = ContextCompacted(first=1, last=last, stand_in=list(stand_in), method="remote", origin=maker)
        return self._add(event(told, tokens=tokens))[0]

    def undo(self, seq):
        return self._add(event(CompactionUndone(seq=seq)))[0]

    def rewind(self, to):
        return self._add(event(HistoryRewound(to=to)))[0]

    # -- windows

    def history(self):
        history = History("c")
        history.extend(self.records)
        assert not history.stale, "what changes the path is read from a store: `stored_window`"
        return history

    def window(self, target=RESPONSES, budget=AMPLE, policy=None, *, history=None, **more):
        """Return the window of the whole log, or of a *history* of it. *more* is what `Sight` takes."""
        sight, history = Sight(target, budget, policy, **more), history or self.history()
        request = Request(target, budget, budget.reserve, sight.overhead, sight.weights)
        manifest = choose(history, request, sight.policy)
        return Window(render(history, history.early, [], 0, manifest, target), manifest, target, budget)

    async def stored(self):
        """Return a store with the log in it, as the conversation c."""
        store = MemoryStore()
        for events in self.appends:
            await store.append("c", events)
        return store

    async def stored_window(self, target=RESPONSES, budget=AMPLE, policy=None, *, tokens=None, **more):
        """Return the same, read from a store of which *tokens* are read at first."""
        reader, sight = Reader(await self.stored(), Intake()), Sight(target, budget, policy, **more)
        _, history = await reader.fresh("c", line=sight.line, tokens=budget.context if tokens is None else tokens)
        history, manifest = await reader.chosen(sight, history)
        return Window(await reader.rendered(history, manifest, target), manifest, target, budget)

    def refusals(self, window):
        """Return the rules by which the API would refuse a window."""
        body = body_of(window.rendered, window.target)
        return [one.rule for one in refusals(window.target.api, body, born=self.born)]


def _born(items):
    """Return the ids of an answer's items, each with the id of the reasoning before it, where there is such."""
    born, before = {}, None
    for item in items:
        if item.get("type") == "reasoning":
            before = item.get("id")
        elif before is not None and read(item).kind is not None and "id" in item:
            born[item["id"]] = before
    return born


def sent(window):
    """Return the seqs of what a window sends, in the order in which it sends them."""
    return [one.seq for one in window.rendered]


def kinds(window):
    """Return a window's items by their kinds, a message by its role; with a star if it goes without an id."""
    named = [(item.get("role", item.get("type")), "id" in item) for item in window.items]
    return [kind if has or kind in ("user", "system", "developer") else f"{kind}*" for kind, has in named]


def roles(window):
    """Return the roles of a window's messages; of an assistant's with the ids of its calls."""
    return [
        " ".join([message["role"], *(made["id"] for made in message.get("tool_calls", ()))])
        for message in window.messages
    ]


def fate(window, seq):
    """Return what became of an event, and by which rule."""
    verdict = window.manifest.why(seq)
    assert (verdict.fate in SENT) == (seq in sent(window))
    return f"{verdict.fate}: {verdict.rule}"
