"""The handle: one conversation, to write to, to answer, and to read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from .answering import answered, check_answers, decide, output_for
from .answers import first_outputs
from .branching import boundary_below, check_boundary
from .canonical import canonical, digest, loads
from .checks import switch, whole, why
from .codec import event
from .compaction import Compacted
from .damage import damage_named
from .erasing import Receipt, erase
from .errors import AlreadyAnswered, Invalid, VersionConflict
from .events import HistoryRewound, MetadataUpdated, NewEvent, ResponseCompleted, Usage
from .history import OpenCall
from .ids import ANY, Expected, version_of
from .intake import content_digest, leading
from .items import Input, InputItem, Item
from .listing import LAST, Appended, Call, Entry, Event, Listing, Turn
from .log import Appended as Written
from .log import Break, Fork, Head, Key, metadata_of
from .model import Model
from .pages import Pages
from .tools import Toolbox, Tools
from .turns.counting import counted, counter_of
from .turns.outcome import Options, Result, WhenBusy, open_call
from .turns.plan import mapping, one_of, plan, preview
from .turns.shortening import by_hand, undo
from .turns.streams import Opening
from .window.budget import Budget
from .window.policies import Policy
from .window.window import Tokens, Window
from .writer import HASTY

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ("Conversation",)

_ATTEMPTS = 100
"""Whenever one is lost, somebody else has appended; so nobody waits for ever."""


class Conversation:
    """One conversation of an engine: cheap to hold, safe to use from many tasks.

    It may lag behind other writers until it reads or writes; `version` and `metadata` are as of then.
    """

    def __init__(self, engine: Engine, head: Head) -> None:
        self._engine = engine
        self._head = head
        self._version = head.version
        self._list = Listing(engine, head.conversation)

    @property
    def id(self) -> str:
        """Its id: the caller's, or one of ours."""
        return self._head.conversation

    @property
    def engine(self) -> Engine:
        """The engine that it belongs to."""
        return self._engine

    @property
    def version(self) -> int:
        """The seq of the last event that this handle has seen."""
        return self._version

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The caller's JSON about it."""
        return metadata_of(self._head)

    def __repr__(self) -> str:
        return f"<Conversation {self.id} at {self.version}>"

    async def refresh(self) -> Self:
        """Look at the log again; return the handle.

        Raises:
            NotFound: it is gone.
        """
        self._engine.check()
        self._head = await self._engine.reader.head(self.id)
        self._version = self._head.version
        return self

    def saw(self, version: int) -> None:
        """Learn of a version that an append of this process has reached."""
        self._version = max(self._version, version)

    # -- writing

    async def append(
        self,
        *items: InputItem,
        expected: Expected = ANY,
        key: str | None = None,
        pinned: bool = False,
        meta: Mapping[str, object] | None = None,
    ) -> Appended:
        """Append items, all or none, durable before it returns. An open turn does not stop it.

        A string is a user's message; anything with `model_dump` is taken, within an item too, so
        `append(*response.output)` works. System and developer messages before everything else, and everything with
        `pinned`, stay in every window.

        Args:
            items: strings, dicts in the Responses shape, or objects of openai's SDK.
            expected: the version that the conversation must have.
            key: an idempotency key: the same items under it again, with the same *meta* and *pinned*, return the
                first result.
            pinned: keep them in every window; an output is pinned with its call, in one append.
            meta: small JSON kept with each item and never sent.

        Raises:
            InvalidItem: one of them is no item, or was changed while it was read.
            AlreadyAnswered: an output for a call that has its output.
            VersionConflict, KeyReused, NotFound, StoreError: nothing was written.
        """
        self._engine.check()
        if not items:
            raise Invalid("append: at least one item is needed")
        version_of(expected)
        switch("pinned", pinned)
        events = await self._engine.intake.caller(items, pinned=pinned, meta=meta)
        named = None if key is None else Key(key, content_digest(events))
        appended = await self._written(events, expected, named)
        self.saw(appended.version)
        return Appended(appended.first, appended.last, appended.version, appended.replayed)

    async def _written(self, events: list[NewEvent], expected: Expected, key: Key | None) -> Written:
        """Append what a caller says."""
        answers = first_outputs(self.id, events)
        if _LEADS.isdisjoint([one.shape for one in events]):
            try:
                return await self._engine.writer.append(self.id, events, expected=expected, key=key, answers=answers)
            except AlreadyAnswered:
                pass  # by something that a rewind may have left: of paths the store does not know
        return await self._append(events, expected, key)

    async def _append(self, events: list[NewEvent], expected: Expected, key: Key | None) -> Written:
        """Append what depends on what is there already: at an exact version, again if somebody was faster."""
        for attempt in range(_ATTEMPTS):
            if key is not None and await self._engine.store.key(self.id, key.name) is not None:
                # A replay, or a conflict that names the key: the store decides, whatever the version is now.
                return await self._engine.writer.append(self.id, events, key=key)
            try:
                async with self._engine.writer.quiet(self.id, needed=attempt >= HASTY) as quiet:
                    head = await self._engine.reader.head(self.id)
                    exact = head.version if expected == ANY else expected
                    if exact == head.version:
                        await check_answers(self._engine.store, self.id, events)
                        events = await self._leading(events, head)
                    return await self._engine.writer.append(self.id, events, expected=exact, key=key, quiet=quiet)
            except VersionConflict:
                if expected != ANY or attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    async def _leading(self, events: list[NewEvent], head: Head) -> list[NewEvent]:
        """Pin what leads."""
        if _LEADS.isdisjoint([one.shape for one in events]):
            return events
        _, history = await self._engine.reader.fresh(self.id)
        if history.leading and head.items == sum(1 for _ in history.entries()):
            return leading(events)
        return events

    async def update_metadata(self, patch: Mapping[str, object], *, expected: Expected = ANY) -> None:
        """Change the metadata by a JSON merge patch (RFC 7396): null takes a key away.

        Raises:
            Invalid: the patch is no JSON object.
            VersionConflict, NotFound, StoreError: nothing was written.
        """
        self._engine.check()
        said = event(MetadataUpdated(patch=loads(canonical(mapping("patch", patch), "patch"))))
        await self._engine.writer.append(self.id, [said], expected=expected)
        await self.refresh()

    async def rewind(self, to: int, *, expected: Expected = ANY, key: str | None = None) -> Appended:
        """Go on from where the conversation was at version *to*: what came behind it is left, and stays in the log.

        *to* may lie on a branch that was left before: exactly what was alive at that version is alive again. So
        rewinding to just before a rewind undoes it.

        Raises:
            Invalid: there is no such seq, or it lies within a group; the message names the nearest that will do.
            ConversationBusy: a turn is running.
            VersionConflict, KeyReused, NotFound, StoreError: nothing was written.
        """
        self._engine.check()
        version_of(expected)
        whole("to", to, 1)
        named = None if key is None else Key(key, digest(canonical({"rewound": to})))
        async with damage_named(self._engine.store, self.id):
            written = await self._rewind(to, expected, named)
        self.saw(written.version)
        return Appended(written.first, written.last, written.version, written.replayed)

    async def _rewind(self, to: int, expected: Expected, key: Key | None) -> Written:
        for attempt in range(_ATTEMPTS):
            if key is not None and await self._engine.store.key(self.id, key.name) is not None:
                return await self._engine.writer.append(self.id, [], key=key)
            said = [event(HistoryRewound(to=to))]
            try:
                async with self._engine.writer.quiet(self.id, needed=attempt >= HASTY) as quiet:
                    paths = await check_boundary(self._engine.store, self.id, to)
                    exact = paths.head.version if expected == ANY else expected
                    return await self._engine.writer.append(
                        self.id, said, expected=exact, key=key, lease=Break(), quiet=quiet
                    )
            except VersionConflict:
                if expected != ANY or attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    async def fork(
        self,
        at: int | None = None,
        *,
        id: str | None = None,
        metadata: Mapping[str, object] | None = None,
        key: str | None = None,
    ) -> Conversation:
        """Return a new conversation that begins with this one's events up to *at*, and goes its own way from there.

        Nothing is copied: the cost is the same whatever the length. Seqs up to *at* are shared, and what is erased
        there is erased in both.

        Args:
            at: a seq between groups; default: the last one, before a response that is under way.
            id: see `Engine.create`.
            key: an idempotency key: the same *at* and *metadata* under it again, or neither, give the same fork,
                whatever has become of this conversation since.
            metadata: JSON about it; default: a copy of this conversation's, which is the fork's own from then on.

        Raises:
            Invalid: there is no such seq, or it lies within a group; the message names the nearest that will do.
            VersionConflict: there is a conversation of that id, or it was deleted.
            NotFound, KeyReused, StoreError: nothing was written.
        """
        engine = self._engine
        engine.check()
        given = None if metadata is None else loads(canonical(mapping("metadata", metadata), "metadata"))
        asked = canonical([given, self.id, None if at is None else whole("at", at, 1)])
        if (made := await engine.begun(id, key, asked)) is not None:
            return made
        if at is None:
            at = await boundary_below(engine.store, self.id)
        else:
            await check_boundary(engine.store, self.id, at)
        said = metadata_of(await engine.reader.head(self.id)) if given is None else given
        return await engine.begin(id, said, key, asked, Fork(self.id, at))

    async def erase(self, *seqs: int, reason: str) -> Receipt:
        """Overwrite the content of events, for good: here, and in every fork that shares them.

        The events keep their places, and what they were; requests that held them can no longer be rebuilt. A compaction
        that covers one is void. What others said of it is not found by itself: name those seqs too.

        Metadata is erased by the seqs of the `conversation.created` and `metadata.updated` events that said it; what of
        theirs is still current goes from `metadata`, too, and names of fields that were taken away stay. A fork's copy
        is the fork's own: the receipt names it. Names of idempotency keys stay, and digests of what they stand for.

        Nobody who appends meanwhile can keep it from being done.

        Raises:
            Invalid: no seqs, or one that holds no content; or a blank reason.
            NotFound: nothing was changed.
            StoreError: what was done is not known; the same call again does the rest.
        """
        self._engine.check()
        if not seqs:
            raise Invalid("erase: at least one seq is needed")
        for seq in seqs:
            whole("seq", seq, 1)
        async with damage_named(self._engine.store, self.id):
            receipt = await erase(self._engine, self.id, seqs, why(reason))
        await self.refresh()
        return receipt

    async def answer(self, call_id: str, output: str | Sequence[Item], *, key: str | None = None) -> Appended:
        """Give the output of a call that the client executes; `run` without input goes on from there.

        Args:
            call_id: as `open_calls` and `Result.open_calls` have it.
            output: a text, or content parts. Other kinds of outputs are appended as items.
            key: an idempotency key: the same output under it again returns the first result.

        The same output again changes nothing.

        Raises:
            NotFound: there is no such call, or it was erased.
            AlreadyAnswered: it has another output.
            ConversationBusy: it is being run by a turn.
            Invalid: it is a call of another kind, or asks for a person's decision.
            VersionConflict, KeyReused, StoreError: nothing was written.
        """
        self._engine.check()
        item = await output_for(self._engine, self.id, call_id, output)
        try:
            return await self.append(item, key=key)
        except AlreadyAnswered as error:
            written = await answered(self._engine, self.id, item, error)
            return Appended(written.first, written.last, written.version, written.replayed)

    async def decide(self, call_id: str, *, approve: bool, by: str, reason: str = "") -> Appended:
        """Log a person's decision on a call: `run` then runs it; a refusal is an output that says so, with *reason*.

        The same decision again changes nothing. It may come days later, and from another process.

        Args:
            call_id: as `open_calls` and `Result.open_calls` have it.
            approve: whether it may be run.
            by: who says so; in the log only.
            reason: why. The model is told why a call was refused.

        Raises:
            NotFound: there is no such call, or it was erased.
            AlreadyDecided: it was decided otherwise, or is running.
            AlreadyAnswered: it has its output.
            Invalid: it is of a kind that cannot be refused in words.
            StoreError: nothing was written.
        """
        self._engine.check()
        written = await decide(self._engine, self.id, call_id, approve=approve, by=by, reason=reason)
        self.saw(written.version)
        return Appended(written.first, written.last, written.version, written.replayed)

    # -- answering

    async def respond(
        self,
        model: Model,
        input: Input | None = None,
        *,
        instructions: str | None = None,
        tools: Tools = (),
        params: Mapping[str, object] | None = None,
        budget: Budget | None = None,
        policy: Policy | None = None,
        key: str | None = None,
        expected: Expected = ANY,
        when_busy: WhenBusy = "raise",
        open_calls: Literal["raise", "seal"] = "raise",
        aside: bool = False,
    ) -> Result:
        """Call the model once. Tools are declared, never executed: open calls come back as `waiting`.

        With `aside` it is a call beside the conversation, such as for a title or a check: its input and output are
        logged, with usage, and enter no later window, nor the transcript. It takes no lease and is refused by none, so
        `when_busy` and `open_calls` mean nothing to it. The same key again gives the result of an attempt that was
        answered; two attempts at once are both answered.

        Other args and errors are those of `run`.
        """
        options = Options(
            instructions=instructions,
            tools=tools,
            params=params,
            budget=budget,
            policy=policy,
            key=key,
            expected=expected,
            when_busy=when_busy,
            open_calls=open_calls,
            aside=aside,
        )
        return await self._perform(model, input, options)

    async def run(
        self,
        model: Model,
        input: Input | None = None,
        *,
        instructions: str | None = None,
        tools: Tools = (),
        params: Mapping[str, object] | None = None,
        budget: Budget | None = None,
        policy: Policy | None = None,
        key: str | None = None,
        expected: Expected = ANY,
        when_busy: WhenBusy = "raise",
        open_calls: Literal["raise", "seal"] = "raise",
        max_rounds: int = 20,
        deps: object = None,
    ) -> Result:
        """Run a turn: call the model, run the tools that it asks for, and so on, until it answers or has to wait.

        Args:
            model: an adapter, such as `Responses(client, "gpt-5")`.
            input: what to append first; without it, what is there is answered (again).
            instructions: a system message for this turn's requests; not part of the history.
            tools: async functions, which are run here; schemas in the Responses shape, whose calls the client answers.
            params: go into the request as they are, in the API's own words; they win over the adapter's.
            budget: the model's context window, and what is kept free; default: the adapter's, the engine's, or that of
                a known model.
            policy: what goes first when the window is short of room.
            key: an idempotency key for the input. Done: that result again, `replayed`. Running: it is waited for.
                Failed or interrupted: a new attempt, without appending the input again.
            expected: the version that the conversation must have.
            when_busy: what to do while another turn runs.
            open_calls: what to do when calls of the last response wait for outputs that the input does not bring.
            max_rounds: model calls at most; then the last calls are sealed and the result is incomplete, `max_rounds`.
            deps: handed to tools that have a parameter of type `ToolContext`.

        Raises:
            Invalid, InvalidItem, UnknownModel, BudgetExceeded: the input or the arguments; nothing was written.
            VersionConflict, ConversationBusy, CallsOpen, KeyReused: the state of the conversation; nothing was written.
            ResponseFailed: the model did not answer; the input and the failure are in the log.
            Fenced: this worker was taken for dead and the turn taken over.
            NotFound, StoreError.
        """
        options = Options(
            instructions=instructions,
            tools=tools,
            params=params,
            budget=budget,
            policy=policy,
            key=key,
            expected=expected,
            when_busy=when_busy,
            open_calls=open_calls,
            rounds=whole("max_rounds", max_rounds, 1, of="model calls"),
            deps=deps,
        )
        return await self._perform(model, input, options)

    def stream(
        self,
        model: Model,
        input: Input | None = None,
        *,
        instructions: str | None = None,
        tools: Tools = (),
        params: Mapping[str, object] | None = None,
        budget: Budget | None = None,
        policy: Policy | None = None,
        key: str | None = None,
        expected: Expected = ANY,
        when_busy: WhenBusy = "raise",
        open_calls: Literal["raise", "seal"] = "raise",
        max_rounds: int = 20,
        deps: object = None,
        on_leave: Literal["cancel", "finish"] = "cancel",
    ) -> Opening:
        """Run a turn and watch it: `run`, streamed. `async with` it, or `await` it and `aclose()` it from any task.

        Everything that can be refused is refused on opening. `on_leave` says what becomes of the turn when the reader
        leaves before its end: it is cancelled, or it goes on unseen; closing the engine waits for that a little, see
        `open_engine(grace=)`. Other args and errors are those of `run`.
        """
        options = Options(
            instructions=instructions,
            tools=tools,
            params=params,
            budget=budget,
            policy=policy,
            key=key,
            expected=expected,
            when_busy=when_busy,
            open_calls=open_calls,
            rounds=whole("max_rounds", max_rounds, 1, of="model calls"),
            deps=deps,
        )
        one_of("on_leave", on_leave, ("cancel", "finish"))
        return Opening(partial(self._engine.start, self, model, input, options, finish=on_leave == "finish"), on_leave)

    async def _perform(self, model: Model, value: Input | None, options: Options) -> Result:
        self._engine.check()
        made = await plan(self._engine, self, model, value, options)
        result = await self._engine.perform(made)
        self.saw(result.version)
        return result

    async def take_over(self) -> None:
        """End a turn whose worker is gone, at once: its lease is broken and its open calls are sealed.

        A worker that is alive after all is refused with `Fenced` at its next append.
        """
        self._engine.check()
        for attempt in range(_ATTEMPTS):
            head, history = await self._engine.reader.fresh(self.id)
            if head.lease is None and history.open is None:
                break
            try:
                await self._engine.take_over(self.id, head, history, force=True)
            except VersionConflict:  # that worker is alive, and was faster
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                break
        await self.refresh()

    async def compact(
        self,
        model: Model | None = None,
        *,
        method: Literal["auto", "remote", "summary", "extract"] = "auto",
        instructions: str | None = None,
        budget: Budget | None = None,
        expected: Expected = ANY,
    ) -> Compacted:
        """Let windows begin with something shorter than all that was said; the log keeps that, and the transcript.

        The last turn stays word for word while it is short, and so does what nobody has answered yet. Where nothing new
        has come since the last compaction, it is made again, from the events themselves. `undo_compaction` takes it
        back, and so does a rewind to before it.

        Args:
            model: what makes it, not necessarily the one that is asked otherwise.
            method: "remote": by the model's own service, which keeps the user's words and makes the rest opaque;
                "summary": by any model, in parts where it takes several; "extract": by none, the newest messages;
                "auto": the first of these that can be done with *model*.
            instructions: go with its requests; for "remote", those of the conversation's other requests.
            budget: the model's context window; default: as for `run`.
            expected: the version that the conversation must have.

        Raises:
            Conflict: there is nothing to compact, or it would not get shorter; nothing has changed.
            ResponseFailed: the model did not answer, or with nothing that could be used; nothing has changed.
            BudgetExceeded: a part of it does not fit the model.
            Invalid, UnknownModel: the arguments.
            ConversationBusy, VersionConflict, NotFound, StoreError: nothing was written.
        """
        self._engine.check()
        ways: dict[str, Any] = {"method": method, "instructions": instructions, "budget": budget, "expected": expected}
        made = await self._engine.attend(partial(by_hand, self, self._engine, model, **ways))
        self.saw(made.seq)
        return made

    async def undo_compaction(self, seq: int | None = None) -> Appended:
        """Let the compaction that windows start from count no more; the one before it does again, if there is one.

        *seq* names it, to be sure which one it is.

        Raises:
            Invalid: windows start from no compaction, or from another one.
            ConversationBusy: a turn is running.
            NotFound, StoreError: nothing was written.
        """
        self._engine.check()
        if seq is not None:
            whole("seq", seq, 1)
        written = await undo(self._engine, self.id, seq)
        self.saw(written.version)
        return Appended(written.first, written.last, written.version, written.replayed)

    # -- reading: none of these ever writes

    async def window(
        self,
        budget: Budget | None = None,
        *,
        at: int | None = None,
        api: Literal["responses", "chat"] = "responses",
        model: Model | None = None,
        instructions: str | None = None,
        tools: Tools = (),
        policy: Policy | None = None,
    ) -> Window:
        """Return what a model would be sent now, or would have been at version *at*.

        Without *model*, for the target of the latest request if it went to *api*, else for no backend in particular.
        A call without an output, such as one that waits, is followed by one that says that none has been recorded.

        Raises:
            BudgetExceeded: what must be sent does not fit.
            UnknownModel, Invalid: there is no budget to cut the window to.
        """
        self._engine.check()
        view, history = await preview(
            self._engine,
            self.id,
            budget,
            at=at,
            api=api,
            model=model,
            instructions=instructions,
            tools=tools,
            policy=policy,
        )
        history, manifest = await self._engine.reader.chosen(view, history)
        rendered = await self._engine.reader.rendered(history, manifest, view.target)
        return Window(rendered, manifest, view.target, view.budget, self.id)

    async def count(
        self,
        model: Model,
        budget: Budget | None = None,
        *,
        at: int | None = None,
        instructions: str | None = None,
        tools: Tools = (),
        policy: Policy | None = None,
    ) -> Tokens:
        """Return the tokens that the model's API counts in what `window` with these arguments would send.

        It takes a request to the API, which answers nothing; the log stays as it is. `window(...).tokens` is the
        estimate of the same, without a request.

            exact = await c.count(gpt, instructions="Be brief.", tools=tools)

        Raises:
            Invalid: the adapter cannot ask for it: of turnlog's own, `Responses` can.
            ResponseFailed: the API did not say; some backends have no such endpoint.
            BudgetExceeded, UnknownModel: as for `window`.
        """
        counter_of(model)
        tools = Toolbox(tools).schemas
        window = await self.window(budget, at=at, model=model, instructions=instructions, tools=tools, policy=policy)
        return await counted(self, model, window, instructions, tools)

    def events(self, *, after: int = 0, follow: bool = False) -> AsyncIterator[Event]:
        """Yield the log's events behind *after*, in seq order; with *follow* go on with what comes, for ever."""
        whole("after", after, 0, LAST)
        return self._list.events(after, follow=switch("follow", follow))

    def items(
        self,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int = 100,
        order: Literal["asc", "desc"] = "asc",
        abandoned: bool = False,
    ) -> Pages[Entry]:
        """List the transcript: every item, for people. Windows hide nothing from it.

        With *abandoned* also what a rewind has left; those entries are not `alive`.
        """
        return self._list.items(after, before, limit, order, abandoned=abandoned)

    def turns(
        self,
        *,
        after: int | None = None,
        limit: int = 50,
        order: Literal["asc", "desc"] = "asc",
        abandoned: bool = False,
    ) -> Pages[Turn]:
        """List the turns behind seq *after*, numbered from 1 in the order of the listing.

        With *abandoned* also those that a rewind has left, in the order in which they were begun.
        """
        return self._list.turns(after, limit, order, abandoned=abandoned)

    def responses(
        self, *, turn: int | None = None, limit: int = 50, order: Literal["asc", "desc"] = "asc"
    ) -> Pages[Call]:
        """List the recorded model calls, of one turn or of all."""
        return self._list.responses(turn, limit, order)

    async def response(self, seq: int) -> Call:
        """Return the recorded model call that *seq* names, the seq of its `response.requested`.

        Raises:
            NotFound: that is no response.
        """
        return await self._list.response(seq)

    async def open_calls(self) -> Sequence[OpenCall]:
        """Return the calls of the last response whose outputs are owed, and of a last answer that a caller appended."""
        self._engine.check()
        head, history = await self._engine.reader.fresh(self.id)
        running = head.lease is not None and head.lease.remaining > 0
        found = []
        for call in history.unanswered():
            state: Literal["waiting", "approved", "running", "unknown"] = "waiting"
            if history.attempts(call):
                state = "running" if running else "unknown"
            elif history.is_approved(call):
                state = "approved"
            found.append(open_call(call.entry.value(), call.entry.seq, needs=history.needs(call), state=state))
        return found

    async def usage(self) -> Usage:
        """Return the tokens that the API reported, summed over all model calls that were answered."""
        total = Usage()
        async for said in self._list.bodies(ResponseCompleted):
            total += said.usage or Usage(requests=1)
        return total


_LEADS: Final = frozenset({"system", "developer"})
"""Messages that are pinned when they come before everything else."""
