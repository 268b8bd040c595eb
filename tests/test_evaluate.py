"""Running a program over examples: what counts as its answer, and what it may do to its inputs."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from harness import module
from harness.data import Example
from harness.errors import LMError
from harness.evaluate import Evaluator
from harness.lm.request import Completion, LMRef, Reply, Request, Sampling
from harness.metric import Metric
from harness.observe import NullObserver
from harness.results import Evaluation
from harness.state import State
from harness.trace import Trace

ROWS = tuple(Example({"notes": [f"n{number}"]}) for number in range(3))


class SimulatedClient:
    """Answers with the LM's name and the last turn, or as ``reply`` says."""

    def __init__(self, reply: Callable[[Request], str | LMError] | None = None) -> None:
        self._reply = reply or (lambda request: f"answer: {request.lm.model} {request.messages[-1].content}")

    def call(self, request: Request) -> Reply:
        found = self._reply(request)
        if isinstance(found, LMError):
            raise found
        return Reply(Completion(found), cached=False)

    async def ask(self, request: Request) -> Reply:
        return self.call(request)


def evaluator(program: Callable[..., Any], metric: Callable[..., Any], client: Any = None) -> Evaluator:
    return Evaluator(
        suite="s",
        program=program,
        metric=Metric(metric, "s"),
        client=client or SimulatedClient(),
        sampling=Sampling(),
        observer=NullObserver(),
    )


def evaluated(program: Callable[..., Any], metric: Callable[..., Any], client: Any = None) -> Evaluation:
    return evaluator(program, metric, client).evaluate(State(LMRef("tuned")), ROWS, "test", "t")


@module
def ask(notes: list[str]) -> str:
    """Answer."""


@module(name="ask")
async def ask_async(notes: list[str]) -> str:
    """Answer."""


async def coroutine_function(notes: list[str]) -> str:
    return await ask_async(notes)


@functools.wraps(coroutine_function)
def returns_a_coroutine(notes: list[str]) -> Any:
    return coroutine_function(notes)


class Object:
    async def __call__(self, notes: list[str]) -> str:
        return await ask_async(notes)


@pytest.mark.parametrize(
    "program",
    [ask, ask_async, coroutine_function, returns_a_coroutine, Object(), functools.partial(Object())],
    ids=["module", "async module", "coroutine function", "returns a coroutine", "object", "partial"],
)
def test_every_kind_of_program_is_run_to_its_end_with_the_state(program: Callable[..., Any]) -> None:
    def metric(prediction: str, trace: Trace) -> bool:
        return prediction.startswith("tuned notes:") and len(trace.calls) == 1

    assert evaluated(program, metric).values == (1.0, 1.0, 1.0)


def test_a_program_or_metric_that_changes_its_row_changes_that_run_alone() -> None:
    def program(notes: list[str]) -> str:
        notes.append("question")
        return ask(notes)

    def metric(example: Example, prediction: str) -> bool:
        example.notes[0] += "!"
        return f"notes:\n- {example.notes[0][:2]}\n- question" in prediction

    for _ in range(2):
        found = evaluated(program, metric)
        assert found.values == (1.0, 1.0, 1.0)
        assert found.scores[0].inputs == 'notes: ["n0"]'
    assert ROWS[0] == {"notes": ["n0"]}


def test_what_cannot_be_copied_is_shared() -> None:
    lock = threading.Lock()
    rows = [Example({"lock": lock})]
    found = evaluator(lambda lock: lock, lambda example, prediction: example.lock is prediction is lock)
    assert found.evaluate(State(LMRef("m")), rows, "test", "t").values == (1.0,)


def test_a_judges_reply_that_does_not_parse_leaves_the_example_unscored() -> None:
    @module(output="good")
    def judge(answer: str) -> bool:
        """Judge."""

    def reply(request: Request) -> str:
        last = request.messages[-1].content
        return last.replace("notes:", "answer:") if last.startswith("notes") else "good: " + str("n1" not in last)

    def garbled(request: Request) -> str:
        return "I cannot tell." if "answer: - n1" in request.messages[-1].content else reply(request)

    def metric(prediction: str) -> bool:
        return judge(prediction)

    assert evaluated(ask, metric, SimulatedClient(reply)).values == (1.0, 0.0, 1.0)
    found = evaluated(ask, metric, SimulatedClient(garbled))
    assert [score.kind for score in found.scores] == ["scored", "unscored", "scored"]
    assert found.values == (1.0, 1.0)
    assert found.scores[1].feedback.startswith("the judge's reply does not parse: ")
    assert "I cannot tell." in found.scores[1].feedback
