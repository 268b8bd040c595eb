"""Replies held to a JSON schema: what is asked for, what is read, and who is not asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, RootModel

from harness import module
from harness.context import Context, running
from harness.errors import ParseError
from harness.evaluate import Run
from harness.lm.client import Client
from harness.lm.endpoint import Endpoint
from harness.lm.providers import make_provider_factory
from harness.lm.request import Completion, LMRef, Request, Sampling
from harness.lm.vllm import VllmProvider
from harness.optimize.weights import chat_examples
from harness.prompt import chat, from_json, read_reply, reply_schema, to_json, write_reply
from harness.results import ExampleScore
from harness.state import Demo, Prompt, State
from harness.trace import ModuleCall, Trace
from tests.http_lm import Body, HttpLM
from tests.simulated import SUITE

STRUCTURED = Sampling(structured=True)


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


@dataclass(frozen=True)
class Place:
    city: str
    floor: int = 0


@module(reasoning=True)
def label(text: str) -> Literal["good", "bad"]:
    """Judge the text."""


@module
def describe(text: str) -> list[Place]:
    """Say where it may be."""


@module
def measure(text: str) -> list[Size]:
    """Name the sizes."""


def json_answer(body: Body) -> str:
    """An object where a schema asks for one, else text."""
    if "response_format" not in body:
        return "reasoning: by heart\nanswer: bad"
    return json.dumps({"reasoning": "by schema", "answer": "good"})


@pytest.fixture
def server() -> Iterator[HttpLM]:
    with HttpLM(answer=json_answer) as running_server:
        yield running_server


def context(server: HttpLM, *, model: str = "openai/m", demos: tuple[Demo, ...] = (), **settings: Any) -> Context:
    endpoint = Endpoint(server.base_url, timeout=10, **settings)
    client = Client(None, make_provider_factory({"*": endpoint, "openai/*": endpoint, "hosted_vllm/*": endpoint}))
    return Context(client, State(LMRef(model), {"label": Prompt(demos=demos)}), STRUCTURED)


def test_an_endpoint_that_can_is_asked_for_an_object_and_shown_objects(server: HttpLM) -> None:
    demo = Demo({"text": "fine"}, {"reasoning": "it says so", "answer": "good"})
    used = context(server, json_schema=True, demos=(demo,))
    with used.client, running(used):
        assert label("what a day") == "good"
    (body,) = server.requests
    asked = body["response_format"]["json_schema"]
    assert asked["strict"] is True
    assert asked["schema"]["required"] == ["reasoning", "answer"]
    assert asked["schema"]["additionalProperties"] is False
    assert asked["schema"]["properties"]["answer"]["enum"] == ["good", "bad"]
    system, _, shown, _ = (turn["content"] for turn in body["messages"])
    assert "Reply with a JSON object:" in system
    assert json.loads(shown) == {"reasoning": "it says so", "answer": "good"}


@pytest.mark.parametrize("settings", [{"json_schema": False}, {}], ids=["said", "unknown to litellm"])
def test_an_endpoint_that_cannot_is_asked_for_text(server: HttpLM, settings: dict[str, bool]) -> None:
    used = context(server, **settings)
    with used.client, running(used):
        assert label("what a day") == "bad"
    assert "response_format" not in server.requests[0]
    assert "JSON" not in server.requests[0]["messages"][0]["content"]


def test_a_suite_that_does_not_ask_gets_text(server: HttpLM) -> None:
    used = context(server, json_schema=True)
    with used.client, running(Context(used.client, used.state, Sampling())):
        assert label("what a day") == "bad"
    assert "response_format" not in server.requests[0]


def test_vllm_can_unless_its_settings_deny_it() -> None:
    assert VllmProvider("hosted_vllm/m", Endpoint("http://127.0.0.1:1/v1")).takes_schema()
    assert not VllmProvider("hosted_vllm/m", Endpoint("http://127.0.0.1:1/v1", json_schema=False)).takes_schema()


class Petal(BaseModel):
    width: float = Field(alias="petalWidth")
    length: Annotated[float, Field(validation_alias="l", serialization_alias="L")]


class Names(RootModel[list[str]]):
    """A pydantic model that is its one value."""


@module
def petal(text: str) -> Petal: ...


@module
def petals(flower: Petal) -> dict[str, Petal]: ...


@module
def names(text: str) -> Names: ...


def test_prompts_have_names_and_replies_may_have_aliases() -> None:
    one = Petal.model_validate({"petalWidth": 1, "l": 2})
    asked = petals.messages(one)
    assert asked[-1].content == 'flower: {"width": 1.0, "length": 2.0}'
    assert petals.messages({"width": 1, "l": 2}) == asked  # type: ignore[arg-type]
    for text in (asked[0].content, reply_schema(petals.signature)):
        assert "width" in text
        assert "petalWidth" not in text
    values = {"answer": {"a": one}}
    for text in ('answer: {"a": {"petalWidth": 1, "l": 2}}', '{"answer": {"a": {"width": 1, "length": 2}}}'):
        assert read_reply(petals.signature, text) == values
    kept = to_json(petals.signature.reply, values)
    assert from_json(petals.signature.reply, kept) == values
    demo = Demo(to_json(petals.signature.inputs, {"flower": one}), kept)
    assert chat(petals.signature, Prompt(demos=(demo,)), {"flower": one})[2].content.startswith('answer: {"a"')


def test_a_model_with_aliases_is_made_of_several_outputs() -> None:
    found = read_reply(petal.signature, "width: 1\nlength: 2")
    assert petal.signature.build(found) == Petal.model_validate({"petalWidth": 1, "l": 2})


@pytest.mark.parametrize("text", ["answer:\n- a\n- b", '["a", "b"]', '{"answer": ["a", "b"]}'])
def test_a_root_model_is_one_output(text: str) -> None:
    found = read_reply(names.signature, text)
    assert names.signature.build(found) == Names(["a", "b"])
    assert write_reply(names.signature, found) == "answer:\n- a\n- b"


def test_every_object_of_a_schema_is_closed() -> None:
    schema = json.loads(reply_schema(describe.signature))
    place = schema["$defs"]["Place"]
    assert place["required"] == ["city", "floor"]
    assert place["additionalProperties"] is False
    assert schema["properties"] == {"answer": {"type": "array", "items": {"$ref": "#/$defs/Place"}}}
    assert "default" not in json.dumps(schema)


@given(st.text(), st.integers(), st.text())
def test_objects_read_back(city: str, floor: int, why: str) -> None:
    for contract, outputs in (
        (describe.signature, {"answer": [Place(city, floor)]}),
        (label.signature, {"reasoning": why, "answer": "good"}),
        (measure.signature, {"answer": [Size.LARGE, Size.SMALL]}),
    ):
        text = write_reply(contract, outputs, structured=True)
        assert to_json(contract.reply, read_reply(contract, text)) == to_json(contract.reply, outputs)


def test_objects_are_read_where_text_was_asked_for() -> None:
    assert read_reply(label.signature, '```json\n{"answer": "Good."}\n```') == {"reasoning": "", "answer": "good"}
    assert read_reply(describe.signature, '{"answer": [{"city": "Rome"}]}') == {"answer": [Place("Rome")]}


@pytest.mark.parametrize("text", ['{"answer": "fair"}', '{"answer": null}', '{"verdict": "good"}', '{"answer": "good"'])
def test_objects_that_hold_no_answer_are_wrong(text: str) -> None:
    with pytest.raises(ParseError):
        read_reply(label.signature, text)


@pytest.mark.parametrize("tuned_is_structured", [True, False])
def test_training_teaches_the_format_of_the_lm_that_is_tuned(tuned_is_structured: bool) -> None:
    contract = label.signature
    outputs = {"reasoning": "so", "answer": "good"}

    def call(structured: bool) -> ModuleCall:
        request = Request(LMRef("m"), (), schema=reply_schema(contract) if structured else "")
        text = write_reply(contract, outputs, structured=structured)
        return ModuleCall(contract, {"text": "a"}, request, Completion(text), outputs)

    runs = [Run({}, 0, Trace((call(s),)), ExampleScore("x", 1.0)) for s in (True, False)]  # type: ignore[arg-type]
    same, other = chat_examples(runs, structured=tuned_is_structured)
    assert same == other
    assert same.messages == chat(contract, Prompt(), {"text": "a"}, structured=tuned_is_structured)
    assert same.completion.startswith("{") == tuned_is_structured
    assert from_json(contract.reply, read_reply(contract, same.completion)) == outputs


def test_a_suite_asks_for_it_by_a_setting(pytester: pytest.Pytester, server: HttpLM) -> None:
    def answer(body: Body) -> str:
        number = int(body["messages"][-1]["content"].removeprefix("number: "))
        assert "response_format" in body
        return json.dumps({"answer": "odd" if number % 2 else "even"})

    server.answer = answer
    suite = SUITE.replace("THRESHOLD", "0.9").replace("settings=dict(", "settings=dict(structured=True, ")
    pytester.makepyfile(test_parity=suite)
    (pytester.path / "pyproject.toml").write_text(
        f'[tool.bt-harness.lm."openai/*"]\nbase_url = "{server.base_url}"\njson_schema = true\n'
    )
    result = pytester.runpytest("--bt-lm=openai/m", f"--bt-store={pytester.path / 'store'}")
    result.assert_outcomes(passed=1)
    assert len(server.requests) == 25


@pytest.mark.parametrize("able", [True, False])
def test_a_saved_program_says_how_its_lm_replied(pytester: pytest.Pytester, server: HttpLM, able: bool) -> None:
    def answer(body: Body) -> str:
        assert ("response_format" in body) == able
        return json.dumps({"answer": "odd"}) if able else "answer: odd"

    server.answer = answer
    suite = SUITE.replace("THRESHOLD", "0.1").replace("settings=dict(", "settings=dict(structured=True, ")
    pytester.makepyfile(test_parity=suite)
    (pytester.path / "pyproject.toml").write_text(
        f'[tool.bt-harness.lm."openai/*"]\nbase_url = "{server.base_url}"\njson_schema = {str(able).lower()}\n'
    )
    store = f"--bt-store={pytester.path / 'store'}"
    chosen = ("--bt-optimize", "--bt-strategies=p", "--bt-save=tuned", "--bt-lm=openai/m", store)
    pytester.runpytest(*chosen).assert_outcomes(passed=3)
    assert json.loads((pytester.path / "tuned" / "parity.json").read_text())["sampling"]["structured"] is able
