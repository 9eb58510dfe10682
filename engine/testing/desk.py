"""The desk of the scripted server: takes requests in, judges them, finds their answers, and keeps what they leave."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeAlias

import anyio

from .background import Run
from .judge import Refusal
from .judge import judge as judge_body
from .script import Answer, Api, Entry, Fail, Hang, Raw, Received, Reply, Script, as_answer
from .sending import Following, Sending, as_given, fault, whole
from .state import Kept, items_of
from .wire import JSON, Count, births_of, body_of, encoded, events_of, frames_of, response_id, rough

__all__ = ("Desk", "Taken", "wrong_key")

Taken: TypeAlias = "Sending | Following | Awaitable[Entry] | Entry"
"""What answers a request, or will."""

_FINAL: Final = {"x-should-retry": "false"}
_QUEUED: Final = ("response.created", "response.queued")
"""The events with which a response in the background begins, before anybody works on it."""


class Desk:
    """Everything of a scripted server but HTTP."""

    def __init__(
        self,
        script: Script,
        *,
        windows: Mapping[str, int] | None = None,
        count: Count | None = None,
        judge: bool = True,
        key: str | None = None,
        first: int = 1,
    ) -> None:
        self.requests: list[Received] = []
        self.refused: list[Refusal] = []
        self.counted: list[Any] = []
        self.kept = Kept()
        self.runs: dict[str, Run] = {}
        """Responses that were asked for in the background."""
        self._script = _script(script)
        self._windows = windows or {}
        self.count = count or rough
        self._born: dict[str, str] = {}
        self._judging = judge
        self._key = key
        self._first = first

    # -- taking in

    def receive(self, path: str, api: Api, headers: Mapping[str, str], content: bytes) -> Received:
        """Record a request."""
        try:
            body = json.loads(content)
        except ValueError:
            body = None
        number = self._first + len(self.requests)
        context: Sequence[JSON] = ()
        if isinstance(body, dict):
            with suppress(Refusal):  # which `take` answers with
                context = self.kept.context(body)
        received = Received(
            path=path, api=api, headers=headers, content=content, body=body, number=number, context=context
        )
        self.requests.append(received)
        return received

    def tally(self, content: bytes) -> bytes:
        """Return how many input tokens a request to the Responses API has, as the API says it: those of its JSON."""
        self.counted.append(json.loads(content))
        return encoded({"object": "response.input_tokens", "input_tokens": self.count(content.decode())})

    def opens(self, headers: Mapping[str, str]) -> bool:
        """Return whether a request brings the key, where one is needed."""
        return self._key is None or headers.get("authorization") == f"Bearer {self._key}"

    def take(self, received: Received) -> Taken:
        """What answers the request; nothing is awaited, so the script is consumed in the order of arrival."""
        if not self.opens(received.headers):
            return wrong_key()
        if not isinstance(received.body, dict):
            return fault(Fail(400, message="The body of the request is not a JSON object."))
        try:
            refusal = self._refusal(received)
            if refusal is not None:
                return refusal
            self.kept.begin(received.number, received.body)
            taken = self._script(received)
            if received.body.get("background") is True and received.api == "responses":
                return self._background(taken, received)
        except Exception as error:  # noqa: BLE001 - whatever a script raises is told to the client that met it
            return _script_fault(error)
        return taken

    def left(self, received: Received) -> None:
        """Learn that a request has ended, whether it was answered or not."""
        run = self.runs.get(response_id(received))
        if run is None or run.over:
            self.kept.release(received.number)

    def _refusal(self, received: Received) -> Sending | None:
        try:
            if received.api != "chat":
                self.kept.context(received.body)
        except Refusal as refusal:  # not of the judge: what was there may be gone
            return whole(refusal.body(), status=refusal.status)
        if not self._judging:
            return None
        window = self._windows.get(str(received.body.get("model")))
        rules: dict[str, Any] = {"window": window, "count": self.count, "born": self._born}
        try:
            judge_body(received.api, received.body, **rules)
            if received.context:
                # What the server puts in front counts too; it has that, so nothing of it need be looked up.
                judge_body(received.api, _joined(received), stored=True, **rules)
        except Refusal as refusal:
            self.refused.append(refusal)
            return whole(refusal.body(), status=refusal.status)
        return None

    # -- answering

    async def answer(self, received: Received, taken: Taken) -> Sending | Following | Hang:
        """The answer that was taken, as it is sent."""
        if isinstance(taken, Sending | Following):
            return taken
        try:
            entry = await taken if inspect.isawaitable(taken) else taken
            return self._sending(as_answer(entry), received)
        except Exception as error:  # noqa: BLE001 - as above
            return _script_fault(error)

    def _sending(self, answer: Answer, received: Received) -> Sending | Hang:
        match answer:
            case Hang():
                return answer
            case Fail():
                return fault(answer)
            case Raw():
                return as_given(answer)
            case Reply():
                return self._reply(answer, received)

    def _reply(self, answer: Reply, received: Received) -> Sending:
        self._born |= births_of(answer, received)
        cut = answer.cut_after is not None
        body = body_of(answer, received, count=self.count)
        last = partial(self._concluded, received, body)
        if received.body.get("stream") is True:
            frames = frames_of(answer, received, count=self.count)[: answer.cut_after]
            media = "text/event-stream; charset=utf-8"
            return Sending(media=media, frames=frames, delay=answer.delay, cut=cut, last=last)
        content = encoded(body)
        sent = content[: len(content) // 2] if cut else content
        status = 500 if answer.status == "failed" and received.api != "responses" else 200
        if received.api == "compact" and status == 500:
            return fault(Fail(500, code="server_error"))
        return Sending(status=status, frames=(sent,), length=len(content), delay=answer.delay, cut=cut, last=last)

    def _concluded(self, received: Received, body: JSON) -> None:
        if received.api == "responses":
            self.kept.end(received.number, received.body, received.context, body)

    # -- in the background

    def _background(self, taken: Awaitable[Entry] | Entry, received: Received) -> Taken:
        """Start working on a response; what the script gives at once may refuse it."""
        cut = None
        if not inspect.isawaitable(taken):
            given = as_answer(taken)
            if not isinstance(given, Reply):
                return given
            cut = given.cut_after
        queued = {**body_of(Reply(), received, count=self.count), "status": "queued", "completed_at": None}
        queued |= {"usage": None, "output": []}
        run = Run(queued, partial(self._concluded, received))
        self.kept.end(received.number, {**received.body, "conversation": None}, received.context, queued)
        self.kept.begin(received.number, received.body)
        self.kept.responses[queued["id"]].look = lambda: run.response
        self.runs[queued["id"]] = run
        for kind in _QUEUED:
            run.happen({"type": kind, "response": queued})
        run.task = asyncio.ensure_future(self._work(run, taken, received))
        if received.body.get("stream") is True:
            return Following(frames=run.frames(), cut=cut)
        return whole(queued)

    async def _work(self, run: Run, taken: Awaitable[Entry] | Entry, received: Received) -> None:
        """Let the events of a background response happen, one by one."""
        try:
            answer = as_answer(await taken if inspect.isawaitable(taken) else taken)
        except Exception as error:  # noqa: BLE001 - as above
            answer = Reply(status="failed", error={"message": f"The script failed: {error}"})
        if isinstance(answer, Fail):
            told = {"code": answer.code or "server_error", "message": answer.message}
            answer = Reply(status="failed", error=told)
        if not isinstance(answer, Reply):
            await anyio.sleep_forever()
            return
        self._born |= births_of(answer, received)
        events = (one for one in events_of(answer, received, count=self.count) if one["type"] not in _QUEUED)
        for index, event in enumerate(events):
            await anyio.sleep(answer.delay if index else 0)
            run.happen(event)

    async def close(self) -> None:
        """Stop what is worked on in the background."""
        tasks = [run.task for run in self.runs.values() if run.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _joined(received: Received) -> JSON:
    """Return a request's body with everything in its input that the server puts before it."""
    body = {key: value for key, value in received.body.items() if key not in ("previous_response_id", "conversation")}
    return {**body, "input": [*received.context, *items_of(received.body.get("input"))]}


def _script(script: Script) -> Callable[[Received], Entry | Awaitable[Entry]]:
    if callable(script):
        return script
    if isinstance(script, str | bytes) or not isinstance(script, Sequence):
        raise TypeError(f"A script is a sequence of entries or a callable, not {script!r}; for one answer: [answer].")
    answers = [as_answer(entry) for entry in script]
    entries = iter(answers)

    def following(received: Received) -> Answer:
        for entry in entries:
            return entry
        message = f"The script is used up: it had {len(answers)} answers, and this is request {received.number}."
        return Fail(500, code="script_used_up", message=message, headers=_FINAL)

    return following


def wrong_key() -> Sending:
    """Return the answer to who does not bring the key."""
    return fault(Fail(401, code="invalid_api_key", message="Incorrect API key provided."))


def _script_fault(error: Exception) -> Sending:
    message = f"The script failed with {type(error).__name__}: {error}"
    return fault(Fail(500, code="script_error", message=message, headers=_FINAL))
