"""A model that answers at once, without a server: for logs that are long, and of which only the log matters."""

from small_logs import RESPONSES, said
from turnlog import Budget, StreamEvent
from turnlog.engine.model import ModelFailure
from turnlog.engine.replay import encoders

ENCODERS = encoders()  # here, where looking around on the disk holds nobody up


class Instant:
    """Answers every request with what *answer* says of its number: a text, a list of items, or a failure to raise."""

    def __init__(
        self,
        api="responses",
        answer="Fine {}.",
        *,
        budget=None,
        name="gpt-4o-mini",
        backend="here",
        usage=None,
        encoder=1,
        state="stateless",
        thoughts="never",
        settings=None,
    ):
        self.api = self.adapter = api
        self.name = name
        self.backend = backend
        self.budget = budget or Budget(100_000)
        self.params = {}
        self.state = state
        self.thoughts = thoughts
        self.settings = settings or {}
        self.answer = answer
        self.usage = usage
        self.encoder = encoder
        self.number = 0

    def encode(self, window, settings):
        return ENCODERS[self.api, self.encoder](window.news, window.addressed(settings))

    async def send(self, request):
        self.number += 1
        number, said = self.number, self.answer
        said = said(number) if callable(said) else said
        if isinstance(said, ModelFailure):
            raise said
        if isinstance(said, str):
            said = [self.message(said.format(number), number)]
        response = {"id": f"resp_{self.name}_{number}", "model": self.name}
        yield StreamEvent(type="response.created", raw={"response": response})
        for index, item in enumerate(said):
            yield StreamEvent(type="response.output_item.done", item=item, raw={"output_index": index, "item": item})
        usage = {"input_tokens": 10, "output_tokens": 5} if self.usage is None else self.usage
        yield StreamEvent(type="response.completed", raw={"response": {"status": "completed", "usage": usage}})

    async def open_remote(self):
        return "conv_1"

    def message(self, text, number):
        if self.api == "chat":
            return {"type": "message", "role": "assistant", "content": text}
        part = {"type": "output_text", "text": text, "annotations": []}
        return {"type": "message", "id": f"msg_{number}", "role": "assistant", "status": "completed", "content": [part]}


def echo(budget):
    """Return a model that says the same thing again and again, and reports next to nothing."""
    usage = {"input_tokens": 1, "output_tokens": 1}
    return Instant(answer=[said("echo")], budget=budget, name=RESPONSES.model, backend=RESPONSES.backend, usage=usage)


def call(name, arguments, number):
    """Return a function call, as a model makes it."""
    item = {"type": "function_call", "id": f"fc_{number}", "call_id": f"call_{number}", "name": name}
    return {**item, "arguments": arguments, "status": "completed"}
