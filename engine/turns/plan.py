"""A plan: everything about a turn that can be settled, and refused, before the log is read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from ..blobs import bodies_of
from ..canonical import canonical, digest, plain
from ..checks import switch, whole
from ..errors import Invalid, UnknownModel
from ..events import NewEvent, Origin, Target
from ..families import family_of
from ..history import History
from ..ids import check_key, version_of
from ..intake import content_digest, inputs
from ..items import Input, Item
from ..kept import stateless
from ..log import Key
from ..model import Model, Shape, StreamEvent, front_of, merged, settings_of, shape_of, target_of
from ..tokens import Callers, Counter, scale_of
from ..tools import Runs, Toolbox, Tools
from ..vocabulary import DEFAULT, load, vocabulary_of
from ..window.budget import Budget, accepted, known, reserve_of
from ..window.choose import Request, line_of
from ..window.ledger import Seen, differs, forgets, seen
from ..window.policies import Compacting, Policy, check_policy
from .outcome import Options

if TYPE_CHECKING:
    from ..conversation import Conversation
    from ..engine import Engine

__all__ = ("Plan", "View", "budget_for", "mapping", "one_of", "plan", "preview")


class View:
    """Whom a window is for and what fits: the part of a plan that a preview needs too."""

    def __init__(
        self,
        *,
        target: Target,
        budget: Budget,
        policy: Policy,
        reserve: int,
        overhead: int,
        counter: Counter | None,
        engine: Engine,
        front: str | None = None,
        own: bool | None = None,
        forgets: bool = False,
    ) -> None:
        self.target = target
        self.budget = budget
        self.policy = policy
        self.reserve = reserve
        self.overhead = overhead
        self.front = front
        """What stands in front of the items; None where nobody has said."""
        self.line = line_of(policy, budget, target)
        self.own = own
        """Whether text is counted with the model's own vocabulary; None where no whole request is looked at."""
        self.forgets = forgets
        """Whether the model is not shown again what it thought in earlier turns."""
        self._counter = counter
        self.engine = engine
        self.blobs: Mapping[str, bytes] = {}
        """Bodies of what is about to be appended."""
        self.refused = 0
        """Counted tokens that the server has just found too many."""
        self.unread = 0
        """Up to which seq encrypted content has just been refused by its maker."""
        self.unnamed = 0
        """Up to which seq items have just not been found under their ids."""
        self.unfit: tuple[int, ...] = ()
        """Items that the server has just refused to take back."""

    async def request(self, history: History) -> Request:
        """Return what choosing needs to know; with another counter than the log's, items are counted anew."""
        weights = None
        if self._counter is not None and differs(self._counter, history):
            weights = await self.engine.reader.weights(history, self._counter, self.target, self.blobs)
        shown = Seen()
        if self.own is not None:
            most = max(0, self.budget.context - self.reserve) // 2
            shown = seen(history, self.line, self.target, self.overhead, own=self.own, most=most)
        return Request(
            self.target,
            self.budget,
            self.reserve,
            self.overhead + shown.hidden,
            weights,
            self.front,
            shown._replace(forgets=self.forgets),
            refused=self.refused,
            unread=self.unread,
            unnamed=self.unnamed,
            unfit=self.unfit,
        )


class Plan(View):
    """A turn, before it is opened."""

    def __init__(
        self,
        *,
        conversation: Conversation,
        model: Model,
        options: Options,
        items: list[NewEvent],
        toolbox: Toolbox,
        settings: dict[str, Any],
        transport: dict[str, Any],
        **view: Any,
    ) -> None:
        super().__init__(**view)
        self.conversation = conversation
        self.model = model
        self.options = options
        self.items = items
        self.blobs = bodies_of(items)
        self.toolbox = toolbox
        self.settings = settings
        self.shape: Shape = shape_of(model)
        self.origin = Origin(self.shape.adapter, model.backend, model.name)
        data = canonical(settings, "settings")
        self.settings_digest = digest(data)
        self.bodies: Mapping[str, bytes] = {self.settings_digest: data}
        self.transport = transport

    @property
    def expected(self) -> int | None:
        """The version that the conversation must have, None for any."""
        return version_of(self.options.expected)

    @property
    def key(self) -> Key | None:
        """The idempotency key, with the digest of the input that it names."""
        name = self.options.key
        return None if name is None else Key(name, content_digest(self.items))

    def tool(self, item: Mapping[str, Any]) -> Runs | None:
        """Return what answers a call here: its tool; None when somebody else must, or this is not a run."""
        if self.options.rounds is None or item.get("type") != "function_call":
            return None
        # In a namespace a name is another tool's, which only a schema can have declared.
        return None if item.get("namespace") else self.toolbox.get(str(item.get("name")))

    def own_tool(self, item: Mapping[str, Any]) -> Runs | None:
        """Return the tool that runs a call which another turn has left: only one that is given now."""
        if self.options.rounds is None or item.get("type") != "function_call" or item.get("namespace"):
            return None
        return self.toolbox.runnable.get(str(item.get("name")))

    def send(self, body: Item) -> AsyncIterator[StreamEvent]:
        """Send a body to the model."""
        if self.transport:
            return self.model.send(body, **self.transport)
        return self.model.send(body)


async def plan(engine: Engine, conversation: Conversation, model: Model, value: Input | None, options: Options) -> Plan:
    """Return a plan.

    Raises:
        Invalid: an item, a tool, a parameter or a budget cannot be used; nothing has been read or written.
    """
    _check(options)
    shape = shape_of(model)
    params, transport = merged(shape.params, options.params)
    toolbox = Toolbox(options.tools)
    settings = settings_of(model, params, options.instructions, toolbox.schemas)
    settings |= _managed(engine, model, shape, options)
    if options.aside:  # what is beside the conversation is no part of what its server keeps
        settings["state"] = "stateless"
    items = await engine.intake.caller(inputs(value), path="input")
    common = await view(engine, model, options.budget, options.policy, settings, shape)
    if options.aside:
        common["target"] = stateless(common["target"])
    return Plan(
        conversation=conversation,
        model=model,
        options=options,
        items=items,
        toolbox=toolbox,
        settings=settings,
        transport=transport,
        **common,
    )


def _managed(engine: Engine, model: Model, shape: Shape, options: Options) -> dict[str, Any]:
    """Return how the server is to compact by itself, where a policy leaves it to that."""
    policy = options.policy or engine.policy
    if not isinstance(policy, Compacting) or policy.method != "server" or options.aside or shape.api != "responses":
        return {}
    budget = budget_for(engine, model, options.budget)
    threshold = policy.threshold(budget.context - budget.reserve)
    return {"context_management": [{"type": "compaction", "compact_threshold": threshold}]}


async def view(
    engine: Engine, model: Model, budget: Budget | None, policy: Policy | None, settings: dict[str, Any], shape: Shape
) -> dict[str, Any]:
    """Return a view's arguments for a model."""
    budget = budget_for(engine, model, budget)
    counter = await counter_for(model, shape)
    own = (await engine.intake.vocabulary()).count
    return {
        "target": target_of(model),
        "budget": budget,
        "policy": policy or engine.policy,
        "reserve": reserve_of(budget, settings.get("params", {})),
        "overhead": await engine.overhead(settings, counter or own, shape.api),
        "front": front_of(settings),
        "own": shape.count is not None or family_of(model.name) is not None,
        "forgets": forgets(model.name, shape.api, settings.get("params", {})),
        "counter": counter,
        "engine": engine,
    }


def budget_for(engine: Engine, model: Model, budget: Budget | None) -> Budget:
    """Return the budget: this call's, the adapter's, the engine's, or that of a known model.

    Raises:
        UnknownModel: none of them says.
    """
    found = budget or accepted(model.budget) or engine.budget or known(model.name)
    if found is None:
        raise UnknownModel(model.name, type(model).__name__)
    return found


async def counter_for(model: Model, shape: Shape) -> Counter | None:
    """Return a counter where the model's differs from the one that items are counted with when appended."""
    if shape.count is not None:
        return scale_of(model.name, Callers(shape.count), alike=False)
    name = vocabulary_of(model.name)
    return scale_of(model.name, (await load(name)).count, alike=name == DEFAULT)


def one_of(name: str, value: object, choices: Sequence[str]) -> str:
    """Return *value* if it is one of the choices.

    Raises:
        Invalid: it is not.
    """
    if not isinstance(value, str) or value not in choices:
        raise Invalid(f"{name}={value!r:.100}: {' or '.join(choices)} is needed")
    return value


def mapping(name: str, value: object) -> Mapping[str, Any]:
    """Return *value* if it is a JSON object, at least outside.

    Raises:
        Invalid: it is not.
    """
    if not isinstance(value, Mapping):
        raise Invalid(f"{name}={value!r:.100}: a mapping is needed")
    return value


def _check(options: Options) -> None:
    if options.key is not None:
        check_key(options.key)
    accepted(options.budget)
    check_policy(options.policy)
    version_of(options.expected)
    switch("aside", options.aside)
    one_of("when_busy", options.when_busy, ("raise", "wait"))
    one_of("open_calls", options.open_calls, ("raise", "seal"))
    _check_text("instructions", options.instructions)


def _check_text(name: str, value: object) -> None:
    if value is not None and not isinstance(value, str):
        raise Invalid(f"{name}={value!r:.100}: a text is needed")


async def preview(
    engine: Engine,
    name: str,
    budget: Budget | None,
    *,
    at: int | None,
    api: Literal["responses", "chat"],
    model: Model | None,
    instructions: str | None,
    tools: Tools,
    policy: Policy | None,
) -> tuple[View, History]:
    """Return what a window is to be cut for, and the history to cut it from; nothing is written.

    Raises:
        Invalid: the version does not exist.
        UnknownModel: no budget was given, and none is known.
    """
    accepted(budget)
    check_policy(policy)
    _check_text("instructions", instructions)
    one_of("api", api, ("responses", "chat"))
    if at is not None:
        whole("at", at, 0)
    toolbox = Toolbox(tools)
    settings: dict[str, Any] = {"instructions": instructions, "tools": plain(list(toolbox.schemas), "tools")}
    if model is not None:
        shape = shape_of(model)
        settings = settings_of(model, merged(shape.params, None)[0], instructions, toolbox.schemas)
        made = View(**await view(engine, model, budget, policy, settings, shape))
    else:
        fits = budget or engine.budget
        _, history = await engine.reader.fresh(name, tokens=fits.context if fits else 1)
        latest = target = history.last_target()
        if target is None or target.api != api or (api == "chat" and target.state == "recorded"):
            # Chat backends differ in what they take: for a recorded one, only what all of them take is safe.
            target = Target(api=api)
        fits = fits or _known(latest)
        own = (await engine.intake.vocabulary()).count
        made = View(
            target=msgspec.structs.replace(target, state="stateless"),
            budget=fits,
            policy=policy or engine.policy,
            reserve=fits.reserve,
            overhead=await engine.overhead(settings, own) if instructions or toolbox.schemas else 0,
            counter=scale_of(target.model, own, alike=True),
            engine=engine,
        )
        if at is None:
            return made, await engine.reader.reaching(history, made.line, made.budget.context)
    if at is None:
        _, history = await engine.reader.fresh(name, line=made.line, tokens=made.budget.context)
        return made, history
    head = await engine.reader.head(name)
    whole("at", at, 0, head.version)
    return made, await engine.reader.at(name, at, made.line, made.budget.context)


def _known(target: Target | None) -> Budget:
    """Return the budget of the model that was asked last, through whichever API."""
    found = known(target.model) if target else None
    if found is None:
        raise UnknownModel(target.model if target else "no model was asked yet", "window")
    return found
