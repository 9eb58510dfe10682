"""What only turnlog is asked to do: answer through the client, log turns, branch, verify, count, compare prefixes."""

from __future__ import annotations

import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from benchmarks.disk import DISK, flush_takes, flushed, flushes_each
from benchmarks.prefix import BUDGET
from benchmarks.systems.ours import Turnlog
from benchmarks.tasks import Task
from benchmarks.workload import ASKS_TOOL, TURN, items, size, text, turn
from turnlog import Budget, Conversation, StreamEvent, Window, open_engine
from turnlog.adapters.responses import ENCODERS, Responses, encode
from turnlog.engine.canonical import loads
from turnlog.engine.codec import REQUESTED, body, event
from turnlog.engine.events import ContextCompacted, Record, StandIn
from turnlog.engine.log import Query, Store
from turnlog.engine.portable import dump
from turnlog.engine.replay import RecordedModel, rebuild, verify
from turnlog.engine.testing.prefixes import SIX_HUNDRED, prefix_of
from turnlog.engine.tokens import count_text
from turnlog.engine.vocabulary import estimate, load
from turnlog.engine.window.policies import Composed, DropTurns, OldestTurns, Policy

__all__ = ("TASKS",)

MODEL: Final = "gpt-4o-mini"
KNOWN: Final = {("responses", version): encoder for version, encoder in ENCODERS.items()}
_BEFORE: Final = 24
"""Items that a conversation has before a response is measured."""
_LIMIT: Final = 200
"""Items that are as many tokens as the budget under which prefixes are compared has room for."""


# -- answering


def _client(url: str) -> AsyncOpenAI:
    direct = DefaultAsyncHttpxClient(trust_env=False)
    return AsyncOpenAI(base_url=url, api_key="none", max_retries=0, http_client=direct)


async def answers(
    system: Turnlog, *, url: str, flush: int, label: str, way: str, streamed: bool, times: int
) -> Mapping[str, Any]:
    """Have questions answered with the same items before them; return what each took.

    *way* is turnlog, or the bare client: "typed", as its documentation shows, or "raw", where a body goes as it is and
    JSON is read from the answer's lines.
    """
    given = items(_BEFORE)
    flush_takes(0)
    conversation = await system.engine.create(id=label)
    await conversation.append(*given)
    taken: list[float] = []
    async with _client(url) as client:
        model = Responses(client, MODEL)
        ways: Mapping[str, Callable[[], Callable[[str], Awaitable[None]]]] = {
            "turnlog": lambda: (_streamed if streamed else _whole)(conversation, model),
            "typed": lambda: _typed(client, list(given), streamed=streamed),
            "raw": lambda: _raw(client, list(given), streamed=streamed),
        }
        ask = ways[way]()
        await ask("Hello?")  # the connection is open, and what is imported late is there
        gc.collect()
        flush_takes(flush)
        before = flushed()
        for number in range(times):
            begun = time.perf_counter()
            await ask(f"{number}: And then?")
            taken.append(time.perf_counter() - begun)
        each = flushes_each(before, times)
    flush_takes(DISK)
    return {"times": taken, "flushes": each}


def _streamed(conversation: Conversation, model: Responses) -> Callable[[str], Awaitable[None]]:
    async def ask(question: str) -> None:
        async with conversation.stream(model, question) as stream:
            async for _ in stream:
                pass

    return ask


def _whole(conversation: Conversation, model: Responses) -> Callable[[str], Awaitable[None]]:
    async def ask(question: str) -> None:
        await conversation.respond(model, question)

    return ask


def _typed(client: AsyncOpenAI, history: list[Any], *, streamed: bool) -> Callable[[str], Awaitable[None]]:
    async def ask(question: str) -> None:
        history.append({"role": "user", "content": question})
        if not streamed:
            whole = await client.responses.create(model=MODEL, input=history, store=False)
            history.append(whole.output[0].to_dict())
            return
        async with await client.responses.create(model=MODEL, input=history, store=False, stream=True) as stream:
            done = [said.item async for said in stream if said.type == "response.output_item.done"]
        history.extend(item.to_dict() for item in done)

    return ask


def _raw(client: AsyncOpenAI, history: list[Any], *, streamed: bool) -> Callable[[str], Awaitable[None]]:
    async def ask(question: str) -> None:
        history.append({"role": "user", "content": question})
        body = {"model": MODEL, "input": history, "store": False, "stream": streamed}
        sending = client.responses.with_streaming_response.create(model=MODEL, extra_body=body)
        async with sending as answer:
            if not streamed:
                history.append(loads(await answer.read())["output"][0])
                return
            async for line in answer.iter_lines():
                if line.startswith("data: "):
                    said = loads(line[6:])
                    if said["type"] == "response.output_item.done":
                        history.append(said["item"])

    return ask


async def logged_turns(system: Turnlog, *, url: str, times: int) -> Mapping[str, Any]:
    """Run turns with a tool, two model calls each; return how many flushes one took."""

    async def look_up(place: str) -> str:
        """Look a place up."""
        return text(turn(len(place))[2])

    flush_takes(0)
    async with _client(url) as client:
        conversation = await system.engine.create()
        model = Responses(client, MODEL)
        await conversation.run(model, f"{ASKS_TOOL}first", tools=[look_up])
        before = flushed()
        for number in range(times):
            await conversation.run(model, f"{ASKS_TOOL}{number}", tools=[look_up])
        each = flushes_each(before, times)
    flush_takes(DISK)
    return {"flushes": each}


# -- turns that are logged with their requests


class Told:
    """A model that answers each question of the workload as the workload does."""

    api: Final = "responses"
    adapter: Final = "responses"
    encoder: Final = 1
    name = MODEL
    backend = "benchmarks"
    count = None

    def __init__(self, budget: int) -> None:
        self.budget: Budget | None = Budget(budget)
        self.answer: Mapping[str, Any] = {}

    def encode(self, window: Window, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Encode as `Responses` does."""
        return encode(window.rendered, settings)

    async def send(self, request: Mapping[str, Any]) -> AsyncIterator[StreamEvent]:  # noqa: ARG002 - it knows
        """Answer at once."""
        yield StreamEvent(type="response.output_item.done", item=dict(self.answer), raw={"output_index": 0})
        yield StreamEvent(type="response.completed", raw={"response": {"usage": None}})


async def logged(system: Turnlog, *, conversation: str, count: int, budget: int) -> Mapping[str, Any]:
    """Hold turns of two requests each, as a service does; return what JSON their items are, and how many there are."""
    flush_takes(0)
    held = await system.engine.create(id=conversation)
    model = Told(budget)
    written = 0
    for number in range(count):
        user, call, output, answer = made = turn(number)
        model.answer = call
        await held.respond(model, user)
        model.answer = answer
        await held.respond(model, output)
        written += sum(map(size, made))
    flush_takes(DISK)
    return {"items": count * TURN, "json": written, "events": held.version}


async def verified(system: Turnlog, *, conversation: str, times: int) -> Mapping[str, Any]:
    """Read and decode every event of a conversation, and beside it verify every request; return what each took.

    Both take turns, and the processor's time counts, of all threads: what else the machine does is no part of it.
    """
    store = system.engine.store
    decoding: list[float] = []
    verifying: list[float] = []
    rebuilding: list[float] = []
    events = requests = 0
    for _ in range(times):
        gc.collect()
        begun = time.process_time()
        records = await _decoded(store, conversation)
        decoding.append(time.process_time() - begun)
        request = [one for one in records if one.kind == REQUESTED][-1]
        events = len(records)
        del records
        gc.collect()
        begun = time.process_time()
        report = await verify(store, conversation, KNOWN)
        verifying.append(time.process_time() - begun)
        if report.verified != report.responses:
            raise RuntimeError(f"{report.verified} of {report.responses} requests verified")
        requests = report.responses
        begun = time.process_time()
        await rebuild(store, request, KNOWN)
        rebuilding.append(time.process_time() - begun)
    return {
        "verify": verifying,
        "decode": decoding,
        "rebuild": rebuilding,
        "requests": requests,
        "events": events,
    }


async def _decoded(store: Store, name: str) -> list[Record]:
    found: list[Record] = []
    while True:
        snapshot = await store.read(name, Query(after=found[-1].seq if found else 0, limit=500))
        page = snapshot.records[0] if snapshot else ()
        for one in page:
            body(one)
            if one.item is not None:
                loads(one.item)
        found += page
        if len(page) < 500:
            return found


async def played(system: Turnlog, *, url: str, turns: int) -> Mapping[str, Any]:
    """Hold a conversation with a server, then send its requests once more: to the server, and to the recording.

    Returns what one took on average; of the recording also with another prompt than was recorded.
    """
    flush_takes(0)
    async with _client(url) as client, open_engine(":memory:") as engine:
        model = Responses(client, MODEL)
        held = await engine.create(id="played")
        for number in range(turns):
            await held.respond(model, f"{number}: And then?")
        sent = [await call.request() async for call in held.responses()]
        path = system.folder / "played.jsonl"
        path.write_bytes(b"".join([line async for line, _ in dump(engine.store, "played")]))
        flush_takes(DISK)
        return {
            "server": await _each(model, sent),
            "recorded": await _each(RecordedModel(path), sent),
            "changed": await _each(RecordedModel(path), [{**one, "instructions": "Changed."} for one in sent]),
        }


async def _each(model: Any, requests: Sequence[Mapping[str, Any]]) -> float:
    gc.collect()
    begun = time.perf_counter()
    for request in requests:
        async for _ in model.send(request):
            pass
    return (time.perf_counter() - begun) / len(requests)


# -- branches


async def branched(system: Turnlog, *, turns: int, branches: int) -> Mapping[str, Any]:
    """Append turns, compact and fork again and again; return how many items there are, and what JSON they are."""
    flush_takes(0)
    engine = system.engine
    trunk = await engine.create(id="trunk")
    done = written = 0

    async def held(conversation: Conversation, number: int) -> None:
        nonlocal done, written
        made = turn(number)
        await conversation.append(*made)
        done += TURN
        written += sum(map(size, made))

    for number in range(turns):
        await held(trunk, number)
        if number % max(1, turns // branches) == 0:
            summary = {"role": "user", "content": f"What was said until turn {number}: {text(turn(number)[3])}"}
            said = ContextCompacted(first=1, last=trunk.version, stand_in=[StandIn(item=summary)], method="summary")
            await engine.writer.append("trunk", [event(said, tokens=200)])
            engine.reader.forget("trunk")
            await trunk.refresh()
            twin = await trunk.fork()
            await held(twin, turns + number)
    flush_takes(DISK)
    return {"items": done, "json": written}


# -- counting, and what requests share


async def counted(system: Turnlog, *, count: int) -> Mapping[str, Any]:  # noqa: ARG001 - a task has a system
    """Count the workload's texts in several ways; return what each took, and by how much it errs."""
    vocabulary = await load()
    exact = vocabulary.count
    texts = [text(item) for item in items(count)]
    ways: dict[str, Callable[[str], int]] = {
        "turnlog": lambda text: count_text(text, exact),
        "turnlog without a vocabulary": estimate,
        "characters / 4": lambda text: len(text) // 4,
    }
    right = [exact(one) for one in texts]
    found = {}
    for name, way in ways.items():
        gc.collect()
        begun = time.perf_counter()
        told = [way(one) for one in texts]
        taken = time.perf_counter() - begun
        off = [100 * (guess - value) / value for guess, value in zip(told, right, strict=True)]
        windows = [
            100 * (sum(told[at : at + 56]) - sum(right[at : at + 56])) / sum(right[at : at + 56])
            for at in range(0, len(texts) - 56, 56)
        ]
        found[name] = {"seconds": taken, "items": off, "windows": windows}
    return {"tokens": sum(right), "exact": vocabulary.exact, "ways": found}


async def prefixes(system: Turnlog, *, turns: int) -> Mapping[str, Any]:  # noqa: ARG001
    """Return, by policy, how many of the tokens of a conversation's requests the request before began with too.

    The conversation and the budget are those of `python -m benchmarks.prefix`.
    """
    policies: Mapping[str, Policy] = {
        "turnlog, oldest-turns": OldestTurns(),
        "turnlog, the newest that fits": Composed(DropTurns(1.0, keep=0)),
    }
    found = {}
    for name, policy in policies.items():
        shares = await prefix_of(policy, BUDGET, turns=turns)
        found[name] = {"shared": shares.shared, "tokens": shares.input, "cuts": shares.cuts}
    found[f"the last {_LIMIT} items"] = _last(turns, _LIMIT)
    return found


def _last(turns: int, most: int) -> dict[str, int]:
    """Return the same for a window of the last so many items, as a limit gives it."""
    shared = tokens = before = 0
    weights = [*SIX_HUNDRED] * turns
    for end in [end for number in range(turns) for end in (number * TURN + 1, number * TURN + 3)]:
        start = max(0, end - most)
        tokens += sum(weights[start:end])
        shared += sum(weights[start:before]) if end <= most else 0
        before = end
    return {"shared": shared, "tokens": tokens, "cuts": 0}


TASKS: Final[Mapping[str, Task]] = {
    task.__name__: task for task in (answers, logged_turns, logged, verified, played, branched, counted, prefixes)
}
