"""Arithmetic with written steps, and word problems told by many templates.

A problem starts from a number, changes it in one to three steps and asks for the result. The reasoning names each step
as an equation, ``3 + 14 = 17. 17 * 2 = 34.``, so that the answer is the last number written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import NamedTuple

from recipes.nano.episode import Episode, Turn, Value
from recipes.nano.stories import (
    ASKS,
    DIVIDE,
    LINKS,
    MINUS,
    OBJECTS,
    PLUS,
    RATES,
    SHARE_ASKS,
    STARTS,
    SUMS,
    TIMES,
    VERBS,
    WHEN,
    WHERE,
)
from recipes.nano.words import COMMON, first_name, invented, listed

REASON = ("reasoning", "think step by step")
NUMBER = "a whole number"
TOLD = [
    "{n} {v} {b} {o}.", "{m} {v} {b} {o}.", "The {w} {v} {b} {o}.", "A {w} {v} {b} {o}.", "{b} {o} {v}.",
    "{n} {v} {b} {o} with {m}.", "{n} {v} the {w} and {b} {o}.", "A {w} with {b} {o} {v}.", "{b} {o} are {v}.",
]  # fmt: skip
"""Sentences that do not tell by themselves whether their verb adds or takes away; the demos do."""
HELD_OUT = {
    "starts": [
        "At first {n} has {a} {o} in a jar.",
        "{n} keeps {a} {o}.",
        "In the morning {n} counts {a} {o}.",
    ],
    "+": [
        "{m} hands {b} {o} over to {n}.",
        "Later {n} collects {b} more {o}.",
        "On Monday {n} catches {b} {o}.",
    ],
    "-": ["{n} breaks {b} of the {o}.", "{n} lends {b} {o} to {m}.", "After that {b} {o} go missing."],
    "*": [
        "Next week {n} has {b} times that many {o}.",
        "A friend brings the count to {b} times as many {o}.",
    ],
    "/": ["The {o} are shared equally by {b} children.", "{n} packs the {o} equally into {b} crates."],
    "asks": ["How many {o} remain with {n}?", "How many {o} does {n} have at the end?"],
}
HELD_OUT_OBJECTS = listed("marbles stickers lemons ribbons candles buttons")
PLAIN = {"+": PLUS, "-": MINUS, "*": TIMES, "/": DIVIDE}


class Step(NamedTuple):
    """One operation on the running number."""

    op: str
    by: int
    result: int


def step(rng: Random, value: int, big: bool) -> Step:
    """An operation whose result is a whole number from 1 to 200 (or so)."""
    while True:
        op = rng.choice("++--*/" if value <= 40 else "++--/")
        if op == "+":
            by = rng.randint(1, 60 if big else 20)
            return Step(op, by, value + by)
        if op == "-" and value > 1:
            by = rng.randint(1, min(value - 1, 60 if big else 20))
            return Step(op, by, value - by)
        if op == "*":
            by = rng.randint(2, 10 if value <= 10 else 5 if value <= 20 else 3)
            return Step(op, by, value * by)
        divisors = [d for d in range(2, 11) if value % d == 0]
        if op == "/" and divisors:
            by = rng.choice(divisors)
            return Step(op, by, value // by)


def equations(start: int, steps: list[Step]) -> str:
    """The steps as equations, each beginning with the result of the one before."""
    lines = []
    for op, by, result in steps:
        lines.append(f"{start} {op} {by} = {result}.")
        start = result
    return " ".join(lines)


def drills(rng: Random, turns: int, *, held_out: bool = False) -> Episode:
    """Expressions evaluated from left to right, with the steps written out or not."""
    limit = rng.choice([1, 1, 2, 3])
    reasoning = limit > 1 or rng.random() < 0.5
    big = held_out or rng.random() < 0.5
    field = rng.choice(["question", "question", "problem", "expression", "input", "sum"])
    built = []
    for _ in range(turns):
        start = rng.randint(1, 99 if big else 20)
        steps: list[Step] = []
        for _ in range(rng.randint(1, limit)):
            steps.append(step(rng, steps[-1].result if steps else start, big))
        text = str(start) + "".join(f" {op} {by}" for op, by, _ in steps)
        if field == "question" and rng.random() < 0.5:
            text = f"What is {text}?"
        outputs: list[tuple[str, Value]] = [("answer", steps[-1].result)]
        if reasoning:
            outputs.insert(0, ("reasoning", equations(start, steps)))
        built.append(Turn(((field, text),), tuple(outputs)))
    instruction = rng.choice(
        ["Compute from left to right.", "Evaluate the expression.", "Do the sum step by step.", "Solve.",
         "Work out the result.", "Compute the answer.", "Calculate."]
    )  # fmt: skip
    reply = ((REASON,) if reasoning else ()) + (("answer", NUMBER),)
    return Episode("arithmetic", instruction, reply, tuple(built))


class Problem(NamedTuple):
    """A word problem with its solution."""

    text: str
    reasoning: str
    answer: int


def problem(
    rng: Random, count: int, *, held_out: bool = False, verbs: Mapping[str, Sequence[str]] | None = None
) -> Problem:
    """A story of ``count`` steps; the held-out one uses sentences, objects and names that training never sees.

    ``verbs`` are invented ones by the operation that they stand for, used in about half of the steps.
    """
    who = first_name(rng, held_out)
    other = first_name(rng, held_out)
    things = rng.choice(HELD_OUT_OBJECTS) if held_out else rng.choice(OBJECTS)
    if not held_out and rng.random() < 0.25:
        things = invented(rng, 1, 2) + "s"

    def say(template: str, **parts: str | int) -> str:
        # An unknown verb where the rest of the sentence tells ("more", "of them"): what to do with new words.
        telling = "more" in template or "of the" in template or "another" in template
        made_up = invented(rng, 1, 2) + "s" if telling and not held_out and rng.random() < 0.25 else ""
        verbs_used = {name: rng.choice(verbs) for name, verbs in VERBS.items() if f"{{{name}}}" in template}
        if made_up:
            verbs_used |= dict.fromkeys(("gets", "loses", "lost"), made_up)
        return template.format(n=who, m=other, o=things, **verbs_used, **parts)

    def led(phrase: str, sentence: str) -> str:
        starts_with_name = sentence.startswith((who, other)) or sentence[0].isdigit()
        return phrase + (sentence if starts_with_name else sentence[0].lower() + sentence[1:])

    steps: list[Step] = []
    draw = rng.random()
    if not held_out and draw < 0.2:
        start, by = rng.randint(2, 12), rng.randint(2, 10)
        steps.append(Step("*", by, start * by))
        story = [say(rng.choice(RATES), a=start, b=by)]
    elif not held_out and draw < 0.3:
        start, by = rng.randint(2, 60), rng.randint(2, 40)
        steps.append(Step("+", by, start + by))
        story = [say(rng.choice(SUMS), a=start, b=by)]
    else:
        start = rng.randint(2, 60 if rng.random() < 0.5 else 20)
        story = [say(rng.choice(HELD_OUT["starts"] if held_out else STARTS), a=start)]
        if not held_out and story[0].startswith((who, "There")) and rng.random() < 0.2:
            story[0] = led(rng.choice(WHEN), story[0])
    while len(steps) < count:
        made = step(rng, steps[-1].result if steps else start, rng.random() < 0.3)
        if verbs and made.op in verbs and rng.random() < 0.5:
            verb, thing = rng.choice(verbs[made.op]), rng.choice(COMMON)
            sentence = say(rng.choice(TOLD), b=made.by, v=verb, w=thing)
        else:
            sentence = say(rng.choice(HELD_OUT[made.op] if held_out else PLAIN[made.op]), b=made.by)
        if not held_out and rng.random() < 0.12:
            sentence = sentence[:-1] + rng.choice(WHERE) + "."
        if not held_out and rng.random() < 0.3:
            sentence = led(rng.choice(LINKS + WHEN), sentence)
        steps.append(made)
        story.append(sentence)
    asks = SHARE_ASKS if steps[-1].op == "/" and rng.random() < 0.7 else HELD_OUT["asks"] if held_out else ASKS
    return Problem(" ".join([*story, say(rng.choice(asks))]), equations(start, steps), steps[-1].result)


def word_problems(rng: Random, turns: int, *, held_out: bool = False) -> Episode:
    """Word problems of one to three steps, most of them with the steps written out."""
    reasoning = held_out or rng.random() < 0.85
    field = "question" if held_out else rng.choice(["question", "question", "problem", "story"])
    limit = rng.choice([1, 2, 2, 3])
    verbs = None
    if not held_out and turns > 1 and rng.random() < 0.35:
        plus, minus = ([invented(rng, 1, 2) for _ in range(rng.randint(1, 2))] for _ in "+-")
        verbs = {"+": plus, "-": minus}
    built = []
    for _ in range(turns):
        made = problem(rng, rng.randint(1, limit), held_out=held_out, verbs=verbs)
        outputs: list[tuple[str, Value]] = [("answer", made.answer)]
        if reasoning:
            outputs.insert(0, ("reasoning", made.reasoning))
        built.append(Turn(((field, made.text),), tuple(outputs)))
    instruction = rng.choice(
        ["Solve the problem.", "Solve the problem step by step.", "Answer the question with a number.",
         "Read the story and compute the answer.", "Work out the number that is asked for.", "Solve the story problem.",
         "Find the answer.", "Do the maths."]
    )  # fmt: skip
    reply = ((REASON,) if reasoning else ()) + (("answer", NUMBER),)
    return Episode("word_problems", instruction, reply, tuple(built))
