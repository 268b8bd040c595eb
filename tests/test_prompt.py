"""Values to chat turns and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel

from harness import module
from harness.errors import ParseError, SuiteError
from harness.prompt import chat, demo_turns, from_json, read_fields, read_reply, system_text, to_json, write_fields
from harness.signature import Field
from harness.state import Demo, Prompt

Colour = Literal["red", "Dark Green", "blue"]


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


@dataclass(frozen=True)
class Point:
    x: int
    label: str


class Box(BaseModel):
    size: Size
    points: list[Point] = []


TYPES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (str, st.text()),
    (int, st.integers()),
    (float, st.floats()),
    (bool, st.booleans()),
    (Colour, st.sampled_from(["red", "Dark Green", "blue"])),
    (Literal[1, 2, "1"], st.sampled_from([1, 2, "1"])),
    (Size, st.sampled_from(Size)),
    (list[str], st.lists(st.text())),
    (list[int], st.lists(st.integers())),
    (set[str], st.sets(st.text())),
    (dict[str, set[int]], st.dictionaries(st.text(), st.sets(st.integers()))),
    (list[list[str]], st.lists(st.lists(st.text()))),
    (str | None, st.none() | st.text()),
    (int | str, st.integers() | st.text()),
    (dict[str, int], st.dictionaries(st.text(), st.integers())),
    (Point, st.builds(Point, x=st.integers(), label=st.text())),
    (
        Box,
        st.builds(Box, size=st.sampled_from(Size), points=st.lists(st.builds(Point, x=st.integers(), label=st.text()))),
    ),
]
fields_and_values = st.lists(
    st.sampled_from(TYPES).flatmap(lambda pair: st.tuples(st.just(pair[0]), pair[1])), min_size=1, max_size=5
)


def same(first: Any, second: Any) -> bool:
    return type(first) is type(second) and (repr(first) == repr(second) or first == second)


@given(fields_and_values)
@example([(str, "answer: no\nf1: yes"), (str, "  indented"), (list[str], ["- a", "", "f0: x\n\nf1: y"])])
@example([(list[str], ["b\n", "c\r", "\n\n", "d\n\n"]), (str, "\n")])
@example([(str, '"quoted"'), (str, "**bold**: f1: x"), (str, "```\ncode\n```"), (str, "a\u2028f1: b\x85c\r")])
@example([(float, math.nan), (float, -math.inf), (str, "null"), (str | None, "null"), (int | str, "5")])
def test_any_values_read_back_as_they_were(drawn: list[tuple[Any, Any]]) -> None:
    fields = [Field(f"f{place}", annotation) for place, (annotation, _) in enumerate(drawn)]
    values = {f"f{place}": value for place, (_, value) in enumerate(drawn)}
    back = read_fields(fields, write_fields(fields, values))
    assert all(same(back[name], values[name]) for name in values)


@given(st.text(), st.text(), st.lists(st.text()))
def test_the_reply_of_several_outputs_reads_back(reasoning: str, first: str, second: list[str]) -> None:
    class Pair(NamedTuple):
        first: str
        second: list[str]

    @module(reasoning=True)
    def pair(question: str) -> Pair: ...

    values = {"reasoning": reasoning, "first": first, "second": second}
    assert read_reply(pair.signature, write_fields(pair.signature.reply, values)) == values


@dataclass(frozen=True)
class Cat:
    name: str


@dataclass(frozen=True)
class Dog:
    name: str


@pytest.mark.parametrize(
    ("annotation", "value", "text"),
    [
        (datetime, datetime(2020, 1, 1, tzinfo=UTC), "2020-01-01T00:00:00Z"),
        (dict, {1: "a"}, '{"1": "a"}'),
        (list, [(1, 2), 3.0], "[[1, 2], 3.0]"),
        (Any, (1, "2"), '\n- 1\n- "2"'),
    ],
)
def test_values_that_json_has_no_type_of_its_own_for_are_written(annotation: Any, value: Any, text: str) -> None:
    assert write_fields([Field("f", annotation)], {"f": value}) == f"f:{'' if text[0] == chr(10) else ' '}{text}"


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Cat | Dog, Dog("Rex")),
        (list[Cat | Dog], [Dog("Rex")]),
        (dict, {1: "a", "1": "b"}),
        (Any, Cat("Tom")),
        (bytes, b"\xff"),
    ],
)
def test_a_value_that_would_read_back_as_another_is_refused(annotation: Any, value: Any) -> None:
    with pytest.raises(SuiteError, match=r"'f'.*[Cc]hange the field's annotation"):
        write_fields([Field("f", annotation)], {"f": value})


def test_names_are_told_apart_as_they_are_written() -> None:
    fields = [Field("straße", str), Field("strasse", str)]
    values = {"straße": "a", "strasse": "b"}
    assert read_fields(fields, write_fields(fields, values)) == values


class Kiss(NamedTuple):
    city: str
    skis: int
    kicks: list[Any]


@module(reasoning=True)
def kiss(x: str) -> Kiss: ...


@module(output="city")
def town(x: str) -> str: ...


@module
def anything(x: str) -> Any: ...


# Letters that ignoring case takes for i, s and k, though folding the case of some does not give these.
_PIECES = [
    *("city", "c\u0131ty", "C\u0130TY", "skis", "\u017fk\u0131\u017f", "kicks", "\u212aicks", "answer", "reasoning"),
    *(": ", "\n", "- ", "**", "{", "}", "[", "]", '"', ",", "```\n", "1", "NaN", "\\ud800", "\ud800", "[" * 1200),
]
_texts = st.lists(st.sampled_from(_PIECES) | st.text(max_size=3), max_size=20).map("".join) | st.text()


@given(_texts)
@example("c\u0131ty: Rome\nskis: 2\nkicks: []")
@example('{"answer": ' + "[" * 1200)
@example('{"answer": ' + "[" * 900 + "]" * 900 + "}")
@example('{"city": "\\ud800"}')
def test_any_text_is_read_or_is_a_wrong_answer(text: str) -> None:
    for contract in (kiss.signature, town.signature, anything.signature):
        try:
            found = read_reply(contract, text)
        except ParseError:
            continue
        from_json(contract.reply, to_json(contract.reply, found))


def test_the_case_of_a_name_is_forgiven_in_turkish_too() -> None:
    assert read_reply(kiss.signature, "c\u0131ty: Rome\nSKIS: 2\nkicks: []")["city"] == "Rome"


@module(reasoning=True)
def classify(length: Annotated[float, "in cm"], names: list[str]) -> Colour:
    """Name the colour."""


def test_the_whole_prompt_is_readable() -> None:
    demo = Demo({"length": 1.5, "names": []}, {"reasoning": "short", "answer": "red"})
    turns = chat(classify.signature, Prompt(demos=(demo,)), {"length": 2.0, "names": ["a", "b\nc"]})
    assert [(turn.role, turn.content) for turn in turns] == [
        (
            "system",
            "Name the colour.\n\nGiven:\nlength: in cm\n\n"
            "Reply with:\nreasoning: think step by step\nanswer: one of red, Dark Green, blue",
        ),
        ("user", "length: 1.5\nnames: []"),
        ("assistant", "reasoning: short\nanswer: red"),
        ("user", "length: 2.0\nnames:\n- a\n- b\n  c"),
    ]


def test_a_demo_without_reasoning_shows_the_answer_alone() -> None:
    turns = demo_turns(classify.signature, Demo({"length": 1.5, "names": []}, {"answer": "red"}))
    assert turns[1].content == "answer: red"


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("reasoning: it is red\nanswer: red", "red"),
        ("Sure!\n**Reasoning:** none\n\n**Answer:** Red.", "red"),
        ("I think so.\nanswer: `dark green`", "Dark Green"),
        ("blue", "blue"),
        ('Answer: "blue"\n', "blue"),
        ("reasoning: a\nanswer: red\nanswer: blue", "red"),
        ("```\nreasoning: a\nanswer: red\n```", "red"),
        ("Sure!\n```text\nreasoning: a\nanswer: red\n```\n", "red"),
        ('I think so.\n```json\n{"reasoning": "a", "answer": "red"}\n```', "red"),
        ("```\nblue\n```", "blue"),
    ],
)
def test_forgiven_forms_of_an_answer(completion: str, answer: str) -> None:
    assert read_reply(classify.signature, completion)["answer"] == answer


@pytest.mark.parametrize(
    ("text", "value"),
    [("a.m.", "a.m."), ("A.M.", "a.m."), ("**a.m.**", "a.m."), ("p.m", "p.m."), ('"Noon."', "noon"), ("*", "*")],
)
def test_options_may_end_like_a_sentence(text: str, value: str) -> None:
    field = Field("time", Literal["a.m.", "p.m.", "noon", "*"])
    assert read_fields([field], f"time: {text}") == {"time": value}
    for other in ("", ".", "m."):
        with pytest.raises(ParseError):
            read_fields([field], f"time: {other}")


@pytest.mark.parametrize(
    "completion", ["**answer: 42**", "answer:**42**", "# **Answer: 42**", "## **Answer:** 42", "**`answer`: 42**"]
)
def test_bold_type_around_a_whole_line_is_no_part_of_its_value(completion: str) -> None:
    assert read_fields([Field("answer", int)], completion) == {"answer": 42}
    assert read_fields([Field("answer", str)], f"{completion}\nor **6** * 7") == {"answer": "42\nor **6** * 7"}


@module(reasoning=True)
def explain(x: str) -> str: ...


@pytest.mark.parametrize(
    ("completion", "reasoning", "answer"),
    [
        ("```\nreasoning: a\nanswer: b\n```", "a", "b"),
        ("So:\n\n```text\nanswer: b\nc\n```\n", "So:", "b\nc"),
        ("```\nanswer: ```py\nb\n```\n```", "", "```py\nb\n```"),
        ('So:\n```json\n{"reasoning": "a", "answer": "b"}\n```\nBye.', "a", "b"),
        # These fences are of what is in them alone.
        ("```\na\n```\nanswer: ```py\nb\n```", "```\na\n```", "```py\nb\n```"),
        ("reasoning: a\nanswer:\n```\nb\n```", "a", "```\nb\n```"),
        ("```\na\n```\nanswer: b", "```\na\n```", "b"),
    ],
)
def test_a_fence_around_the_fields_is_no_part_of_their_text(completion: str, reasoning: str, answer: str) -> None:
    assert read_reply(explain.signature, completion) == {"reasoning": reasoning, "answer": answer}


@pytest.mark.parametrize(
    ("completion", "reasoning", "answer"),
    [
        ("<think>\nanswer: a?\n</think>\n\nreasoning: c\nanswer: b", "c", "b"),
        ("<think>\nanswer: a?\n</think>\n\nanswer: b", "answer: a?", "b"),
        ("Maybe a.\n</think>\nanswer: b", "Maybe a.", "b"),
        ('<think></think>{"reasoning": "c", "answer": "b"}', "c", "b"),
        ("reasoning: c\nanswer: <think>b</think>", "c", "<think>b</think>"),
        ("```\nanswer: <think>b</think>\n```", "", "<think>b</think>"),
        ('{"reasoning": "c", "answer": "a</think>b"}', "c", "a</think>b"),
    ],
)
def test_what_is_thought_before_a_reply_is_no_part_of_it(completion: str, reasoning: str, answer: str) -> None:
    assert read_reply(explain.signature, completion) == {"reasoning": reasoning, "answer": answer}


def test_thoughts_that_do_not_end_are_no_answer() -> None:
    @module
    def guess(x: str) -> str: ...

    assert read_reply(guess.signature, "<think>It may be a.</think>b") == {"answer": "b"}
    with pytest.raises(ParseError, match="raise max_tokens"):
        read_reply(guess.signature, "<think>It may be a")


@pytest.mark.parametrize("completion", ["", "reasoning: red", "answer: purple", "answer: red or blue", "answer:"])
def test_what_is_no_answer_is_a_parse_error_that_names_the_field(completion: str) -> None:
    with pytest.raises(ParseError, match="answer"):
        read_reply(classify.signature, completion)


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (int, "1,234", 1234),
        (float, "1,234.5", 1234.5),
        (bool, "True", True),
        (bool, "no", False),
        (list[int], "[1, 2]", [1, 2]),
        (list[str], "- a\n- 5\n- x y\n  z", ["a", "5", "x y\nz"]),
        (list[str], '```json\n["a"]\n```', ["a"]),
        (list[str], "\n- a\n\n- b\n  c\n\n\n- d\n", ["a", "b\nc", "d"]),
        (list[str], "\r\n- a\r\n- b\r\n", ["a", "b"]),
        (list[str], "* a\n* b\n  c", ["a", "b\nc"]),
        (list[str], "1. a\n2. b", ["a", "b"]),
        (list[int], "\n\u2022 1\n\u2022 2", [1, 2]),
        (int, "**42**.", 42),
        (int, "`1,234`.", 1234),
        (float, "42.", 42.0),
        (bool, "**True**", True),
        (bool, "false.", False),
        (Size, "LARGE", Size.LARGE),
    ],
)
def test_lenient_reading_of_typed_values(annotation: Any, text: str, value: Any) -> None:
    assert same(read_fields([Field("f", annotation)], f"f: {text}")["f"], value)


def test_an_option_that_is_none_is_asked_for_as_it_is_read() -> None:
    field = Field("kind", Literal["a", None])
    assert field.hint == "one of a, null"
    assert [read_fields([field], f"kind: {text}")["kind"] for text in ("null", "Null.", "a")] == [None, None, "a"]


def test_the_reply_part_of_the_system_turn_names_every_type() -> None:
    class Many(NamedTuple):
        a: int
        b: bool
        c: list[str]
        d: Size
        e: Annotated[str, "one word"]
        f: float

    @module
    def many(x: str) -> Many: ...

    assert system_text(many.signature).split("\n")[2:] == [
        "Reply with:",
        "a: a whole number",
        "b: true or false",
        'c: a list, one "- item" per line',
        "d: one of small, large",
        "e: one word",
        "f: a number",
    ]
    assert system_text(many.signature).startswith("Given x, produce a, b, c, d, e, f.")
