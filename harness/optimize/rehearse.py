"""How many module calls a program makes and how long its prompts are, seen from a run with made-up answers.

Nothing but the LM is replaced: the program's own Python runs, its retrieval included. No LM is called.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from pydantic import TypeAdapter

from harness.awaiting import finished
from harness.context import Context, running, within_suite
from harness.data import Example
from harness.errors import HarnessError, ParseError, SuiteError
from harness.lm.client import Client
from harness.lm.request import Completion, LMRef, Reply, Request
from harness.optimize.plan import CallShape, RunShape
from harness.prompt import REFUSALS, write_fields
from harness.signature import REASONING, Field
from harness.state import State
from harness.trace import ModuleCall, Recorder

__all__ = ["rehearse"]

_CHARACTERS: Final = 4
"""Of a token, about, in English."""

_REASONING_TOKENS: Final = 100
"""Of a written chain of thought in a demo, about."""

_MOST_CALLS: Final = 200
_EXAMPLES: Final = 3


def rehearse(program: Callable[..., Any], examples: Sequence[Example], lm: str) -> RunShape:
    """Run the program on the first few examples with made-up answers; of these runs the one with most calls counts.

    A program that goes its way by what the LM says may make more calls on other answers.
    """
    runs = [_run(program, example, lm) for example in examples[:_EXAMPLES]]
    return max(runs, key=lambda run: (len(run.calls), sum(call.prompt_tokens for call in run.calls)))


class _TooManyCalls(Exception):
    """The program goes on for as long as the LM does not say that it is done."""


def _run(program: Callable[..., Any], example: Example, lm: str) -> RunShape:
    recorder = Recorder()
    client = cast(Client, _MadeUp(recorder))
    context = Context(client, State(LMRef(lm)), recorder=recorder)
    wanted = inspect.signature(program).parameters
    arguments = {name: example[name] for name in wanted if name in example}
    note = ""
    with running(context), within_suite():
        try:
            result = program(**arguments)
            if inspect.isawaitable(result):
                asyncio.run(finished(result))
        except _TooManyCalls:
            note = f"the program makes {_MOST_CALLS} calls or more on made-up answers: {_MOST_CALLS} are counted"
        except Exception as error:  # whatever the program does with an answer that makes no sense
            if isinstance(error, HarnessError) and not isinstance(error, ParseError):
                raise
            note = f"on made-up answers the program ends early ({type(error).__name__}): it may make more calls"
    return RunShape(tuple(_shape(call) for call in recorder.trace.calls), note)


@dataclass(frozen=True)
class _MadeUp:
    """Answers every request with the simplest values of the declared types."""

    recorder: Recorder

    def call(self, request: Request) -> Reply:
        calls = self.recorder.trace.calls
        if len(calls) > _MOST_CALLS:
            raise _TooManyCalls
        asked = next(call for call in reversed(calls) if call.request is request)
        return Reply(Completion(_reply(asked)), cached=True)

    async def ask(self, request: Request) -> Reply:
        return self.call(request)


def _reply(call: ModuleCall) -> str:
    fields = call.signature.reply
    try:
        return write_fields(fields, {field.name: _value(field) for field in fields})
    except (*REFUSALS, SuiteError, RecursionError):  # a type whose values its schema does not tell
        return "\n".join(f"{field.name}: answer" for field in fields)


def _value(field: Field) -> Any:
    schema = field.adapter.json_schema()
    return TypeAdapter(field.annotation).validate_python(_sample(schema, schema.get("$defs", {})))


_FORMATS: Final = {
    "date": "2000-01-01",
    "date-time": "2000-01-01T00:00:00",
    "time": "00:00:00",
    "duration": "PT1S",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def _sample(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Any:
    """The simplest value of a JSON schema as pydantic writes them."""
    if "$ref" in schema:
        return _sample(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    if "enum" in schema:
        return schema["enum"][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return _sample(schema[key][0], definitions)
    match schema.get("type"):
        case "integer" | "number":
            least = max(schema.get("minimum", 0), schema.get("exclusiveMinimum", -1) + 1)
            return min(least, schema.get("maximum", least), schema.get("exclusiveMaximum", least + 1) - 1)
        case "boolean":
            return False
        case "array":
            parts = schema.get("prefixItems") or [schema.get("items", {})] * schema.get("minItems", 0)
            return [_sample(part, definitions) for part in parts]
        case "object":
            wanted = schema.get("required", ())
            return {name: _sample(schema["properties"][name], definitions) for name in wanted}
        case "null":
            return None
    if schema.get("format") in _FORMATS:
        return _FORMATS[schema["format"]]
    return "answer".ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength")]


def _shape(call: ModuleCall) -> CallShape:
    texts = [message.content for message in call.request.messages]
    reasons = any(field.name == REASONING for field in call.signature.reply) and call.signature.reasoning
    reply = _tokens(_reply(call)) + (_REASONING_TOKENS if reasons else 0)
    return CallShape(call.module, sum(map(_tokens, texts)), _tokens(texts[-1]) + reply)


def _tokens(text: str) -> int:
    return -(-len(text) // _CHARACTERS)
