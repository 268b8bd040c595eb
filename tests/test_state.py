"""States: immutable values that many runs use at once."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import module
from harness.context import Context, running
from harness.lm.request import Completion, LMRef, Reply, Request
from harness.state import Demo, Prompt, State

values = st.dictionaries(st.text(max_size=5), st.integers() | st.text() | st.lists(st.text(), max_size=2), max_size=3)
demos = st.builds(Demo, values, values)
prompts = st.builds(Prompt, st.none() | st.text(), st.lists(demos, max_size=3).map(tuple))
states = st.builds(
    State, st.builds(LMRef, st.text(), st.none() | st.text()), st.dictionaries(st.text(max_size=5), prompts, max_size=3)
)


@given(states)
def test_a_state_is_its_json(state: State) -> None:
    back = State.from_json(json.loads(json.dumps(state.to_json())))
    assert back == state
    assert back.digest == state.digest


@given(states, states)
def test_digests_tell_states_apart(first: State, second: State) -> None:
    assert (first.digest == second.digest) == (first.to_json() == second.to_json())


def test_demos_replace_earlier_ones_and_keep_instructions() -> None:
    old, new = Demo({"x": 1}, {"y": 1}), Demo({"x": 2}, {"y": 2})
    state = State(LMRef("m"), {"a": Prompt("do", (old,)), "b": Prompt(None, (old,))})
    assert dict(state.with_demos({"a": (new,)}).prompts) == {"a": Prompt("do", (new,))}
    assert state.prompt("b").demos == (old,)


def test_tuned_weights_reset_the_prompts() -> None:
    state = State(LMRef("m"), {"a": Prompt("do", (Demo({}, {}),))}).with_adapter("digest")
    assert state == State(LMRef("m", "digest"))


def test_a_state_cannot_be_changed() -> None:
    state = State(LMRef("m"), {"a": Prompt()})
    with pytest.raises(TypeError):
        state.prompts["b"] = Prompt()  # type: ignore[index]


class EchoClient:
    """Answers with the instruction it was sent, so that a mix-up of states is seen."""

    def call(self, request: Request) -> Reply:
        text = f"answer: {request.lm.model} {request.messages[0].content.split(chr(10))[0]}"
        return Reply(Completion(text), cached=False)

    async def ask(self, request: Request) -> Reply:
        return self.call(request)


@module
def echo(number: int) -> str:
    """Original."""


@module(name="echo")
async def echo_async(number: int) -> str:
    """Original."""


def context(number: int) -> Context:
    state = State(LMRef(f"m{number}"), {"echo": Prompt(f"Instruction {number}.")})
    client: Any = EchoClient()
    return Context(client, state)


def test_fifty_states_of_one_program_run_in_threads_without_touching_each_other() -> None:
    def run(number: int) -> list[str]:
        with running(context(number)):
            return [echo(n) for n in range(20)]

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(run, range(50)))
    assert answers == [[f"m{number} Instruction {number}."] * 20 for number in range(50)]


def test_fifty_states_of_one_program_run_in_tasks_without_touching_each_other() -> None:
    async def run(number: int) -> list[str]:
        with running(context(number)):
            answers = []
            for n in range(20):
                answers.append(await echo_async(n))
                await asyncio.sleep(0)
            return answers

    async def everything() -> list[list[str]]:
        return await asyncio.gather(*(run(number) for number in range(50)))

    answers = asyncio.run(everything())
    assert answers == [[f"m{number} Instruction {number}."] * 20 for number in range(50)]
