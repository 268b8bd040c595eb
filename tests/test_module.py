"""What a decorated function becomes, and what cannot become an LM call."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import InitVar, dataclass, field
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple
from unittest.mock import Mock

import pytest
from pydantic import BaseModel, Field

from harness import module
from harness.context import Context, running
from harness.errors import ConnectionFailedError, ModuleDefinitionError, ParseError, SuiteError
from harness.lm.request import Completion, LMRef, Reply, Request
from harness.prompt import from_json
from harness.state import State
from harness.trace import Recorder


class OneAnswer:
    """A client whose LM says one thing, or fails."""

    def __init__(self, answer: str | Exception) -> None:
        self.answer = answer
        self.requests: list[Request] = []

    def call(self, request: Request) -> Reply:
        self.requests.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        return Reply(Completion(self.answer), cached=False)

    async def ask(self, request: Request) -> Reply:
        return self.call(request)


@contextlib.contextmanager
def answering(answer: str | Exception) -> Any:
    client: Any = OneAnswer(answer)
    with running(Context(client, State(LMRef("test/lm")))) as context:
        yield context


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


def test_one_output_of_each_type() -> None:
    @module
    def number(x: str) -> int: ...

    @module
    def colour(x: str) -> Colour: ...

    @module
    def names(x: str) -> list[str]: ...

    with answering("answer: 7"):
        assert number("a") == 7
    with answering("answer: Blue"):
        assert colour(x="a") is Colour.BLUE
    with answering("answer:\n- a\n- b"):
        assert names("a") == ["a", "b"]


def test_several_outputs() -> None:
    class Pair(NamedTuple):
        first: int
        second: str

    @dataclass
    class Data:
        first: int
        second: str

    class Model(BaseModel):
        first: int = Field(gt=0)
        second: str

    @module
    def pair(x: str) -> Pair: ...

    @module
    def data(x: str) -> Data: ...

    @module
    def model(x: str) -> Model: ...

    with answering("first: 1\nsecond: b"):
        assert (pair("a"), data("a"), model("a")) == (Pair(1, "b"), Data(1, "b"), Model(first=1, second="b"))
    with answering("first: -1\nsecond: b"), pytest.raises(ParseError, match="'first'"):
        model("a")


def test_outputs_with_a_default_may_be_missing() -> None:
    class Model(BaseModel):
        name: str
        note: str | None = None
        tags: list[str] = Field(default_factory=list, description="at most two")

    @dataclass
    class Data:
        name: str
        note: str | None = None
        tags: list[str] = field(default_factory=list)

    class Pair(NamedTuple):
        name: str
        note: str | None = None
        tags: list[str] = []  # noqa: RUF012

    @module
    def model(x: str) -> Model: ...

    @module
    def data(x: str) -> Data: ...

    @module(reasoning=True)
    def pair(x: str) -> Pair: ...

    for ask in (model, data, pair):
        made = {model: Model, data: Data, pair: Pair}[ask]
        for reply in ("name: x", '{"name": "x"}'):
            with answering(reply) as context:
                assert ask("a") == made(name="x")
            (call,) = context.recorder.trace.calls
            assert from_json(ask.signature.reply, call.outputs).keys() == call.outputs.keys()
        with answering('name: x\nnote: "y"\ntags:\n- b'):
            assert ask("a") == made(name="x", note="y", tags=["b"])
        with answering("note: y"), pytest.raises(ParseError, match="'name'"):
            ask("a")
    assert model.messages("a")[0].content.split("\n")[-3:] == [
        "name: text",
        'note: JSON of the schema {"anyOf":[{"type":"string"},{"type":"null"}]}, may be left out',
        'tags: a list, one "- item" per line, at most two, may be left out',
    ]


def test_a_reply_with_no_output_at_all_is_none() -> None:
    @dataclass
    class Open:
        name: str = "x"
        note: str = ""

    @module(reasoning=True)
    def ask(x: str) -> Open: ...

    for reply in ("I cannot say.", "reasoning: because"):
        with answering(reply), pytest.raises(ParseError, match="'name'"):
            ask("a")
    with answering("note: y"):
        assert ask("a") == Open(note="y")


@pytest.mark.parametrize("error", [ValueError, TypeError, AssertionError])
def test_what_an_output_type_refuses_is_a_wrong_answer(error: type[Exception]) -> None:
    @dataclass
    class Span:
        low: int
        high: int

        def __post_init__(self) -> None:
            if self.low > self.high:
                raise error("low > high")

    @module
    def span(x: str) -> Span: ...

    @module
    def spans(x: str) -> list[Span]: ...

    with answering("low: 1\nhigh: 2"):
        assert span("a") == Span(1, 2)
    with answering("low: 2\nhigh: 1"), pytest.raises(ParseError, match=f"'span': {error.__name__}: low > high"):
        span("a")
    with answering('{"answer": [{"low": 2, "high": 1}]}'), pytest.raises(ParseError, match="'answer'"):
        spans("a")


def test_async_modules_are_awaited() -> None:
    @module(reasoning=True)
    async def sign(x: int) -> Literal["plus", "minus"]:
        """Name the sign."""

    async def both() -> list[str]:
        return list(await asyncio.gather(sign(1), sign(x=2)))

    with answering("reasoning: so\nanswer: plus"):
        assert asyncio.run(both()) == ["plus", "plus"]


def test_a_module_keeps_the_function_s_face() -> None:
    @module
    def area(width: float, height: Annotated[float, "in cm"] = 1.0) -> float:
        """The area."""

    assert (area.__name__, area.__doc__) == ("area", "The area.")
    assert area.messages(2)[-1].content == "width: 2.0\nheight: 1.0"
    with pytest.raises(TypeError, match="missing a required argument"):
        area()  # type: ignore[call-arg]
    with pytest.raises(SuiteError, match=r"input 'width'.*annotation"):
        area("wide")  # type: ignore[arg-type]


def test_inputs_are_converted_to_their_types() -> None:
    @module
    def half(x: float, tags: list[str]) -> float: ...

    assert half.messages(3, ("a",)).__getitem__(-1).content == "x: 3.0\ntags:\n- a"  # type: ignore[arg-type]


def test_an_input_that_cannot_be_written_is_never_an_answer_of_the_lm() -> None:
    @module
    def ask(x: Any) -> str: ...

    with answering("answer: a") as context:
        with pytest.raises(SuiteError, match=r"module 'ask': .* of the field 'x' .*convert the value"):
            ask({1: "a", "1": "b"})
        assert not context.client.requests


def test_a_trace_holds_every_call_in_order_whatever_became_of_it() -> None:
    @module
    def first(x: int) -> int: ...

    @module
    def second(x: int) -> int: ...

    with answering("answer: 5") as context:
        first(1)
        context.client.answer = "no number"
        with pytest.raises(ParseError):
            second(2)
        context.client.answer = ConnectionFailedError("down")
        with pytest.raises(ConnectionFailedError):
            second(3)
    calls = context.recorder.trace.calls
    assert [(call.module, dict(call.inputs), call.outputs) for call in calls] == [
        ("first", {"x": 1}, {"answer": 5}),
        ("second", {"x": 2}, None),
        ("second", {"x": 3}, None),
    ]
    assert [call.completion is None for call in calls] == [False, False, True]


def test_a_question_asked_twice_in_a_run_is_two_samples() -> None:
    @module
    def guess(x: int) -> int: ...

    with answering("answer: 1") as context:
        guess(1)
        guess(1)
        guess(2)
    rollouts = [request.rollout for request in context.client.requests]
    assert rollouts[0] == rollouts[2] == 0 != rollouts[1]


@pytest.mark.parametrize("given", ["classify", str, staticmethod(len), functools.partial(len)])
def test_what_is_no_function_is_refused(given: Any) -> None:
    with pytest.raises(ModuleDefinitionError, match=r"@module is for a function, not for .*above a def"):
        module(given)


def test_a_body_with_code_is_refused() -> None:
    with pytest.raises(ModuleDefinitionError, match=r"test_module.py.*code in its body"):

        @module
        def shout(x: str) -> str:
            """Docstring."""
            return x.upper()

    for body in ("return 5", "raise NotImplementedError", "x = 1", "yield 1", "print(x)"):
        scope: dict[str, Any] = {}
        exec(f"def f(x: str) -> str:\n    {body}\nasync def g(x: str) -> str:\n    {body}", scope)
        for function in (scope["f"], scope["g"]):
            with pytest.raises(ModuleDefinitionError, match="code in its body"):
                module(function)


@pytest.mark.parametrize("body", ['"""Doc."""', "...", "pass", '"""Doc."""; ...', "return None"])
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_empty_bodies_are_fine(body: str, kind: str) -> None:
    scope: dict[str, Any] = {}
    exec(f"{kind} f(x: str) -> str:\n    {body}", scope)
    assert module(scope["f"]).signature.name == "f"


def test_what_a_signature_must_have() -> None:
    with pytest.raises(ModuleDefinitionError, match="'x' has no annotation"):

        @module
        def bare(x) -> str: ...  # type: ignore[no-untyped-def]

    with pytest.raises(ModuleDefinitionError, match="return annotation is missing"):

        @module
        def nothing(x: str): ...  # type: ignore[no-untyped-def]

    with pytest.raises(ModuleDefinitionError, match=r"\*xs is no prompt field"):

        @module
        def many(*xs: str) -> str: ...

    with pytest.raises(ModuleDefinitionError, match="'x' has a type pydantic cannot validate"):

        @module
        def odd(x: asyncio.Queue[int]) -> str: ...

    with pytest.raises(ModuleDefinitionError, match="'answer' has the name of another field"):

        @module
        def twice(answer: str) -> str: ...

    with pytest.raises(ModuleDefinitionError, match=r"'N' has the name of another field .'n': the case"):

        @module
        def cased(n: int, N: int) -> int: ...

    class Shade(Enum):
        RED = (255, 0, 0)

    with pytest.raises(ModuleDefinitionError, match=r"option <Shade.RED.*'answer' does not read back"):

        @module
        def shade(x: str) -> Shade: ...

    @dataclass
    class Partial:
        first: int
        second: InitVar[int]

    with pytest.raises(ModuleDefinitionError, match=r"Partial cannot be made of its fields .*'second'"):

        @module
        def partly(x: str) -> Partial: ...

    with pytest.raises(ModuleDefinitionError, match="'Unknown' is not defined"):

        @module
        def unknown(x: Unknown) -> str: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(ModuleDefinitionError, match="'my answer' is not a Python identifier"):

        @module(output="my answer")
        def spaced(x: str) -> str: ...


def test_two_modules_of_one_name_are_told_apart() -> None:
    def make() -> Any:
        @module
        def ask(x: int) -> int: ...

        return ask

    first, second = make(), make()
    with answering("answer: 1"):
        first(1)
        with pytest.raises(ModuleDefinitionError, match=r"two modules .* 'ask'"):
            second(1)


class _SlowText(str):
    """Lets other threads run whenever it is looked up."""

    __slots__ = ()

    def __hash__(self) -> int:
        time.sleep(0.001)
        return super().__hash__()


def test_threads_of_one_run_lose_no_repeated_call() -> None:
    recorder, request = Recorder(), Mock(digest=_SlowText("d"))
    with ThreadPoolExecutor(8) as threads:
        repeats = list(threads.map(lambda _: recorder.repeat(request), range(16)))
    assert sorted(repeats) == list(range(16))
