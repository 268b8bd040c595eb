"""Replies that can be listed: a local LM, here one of random weights, gives one of them and nothing else."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from enum import Enum
from typing import Literal

import pytest

from harness import module
from harness.lm.local import LocalProvider
from harness.lm.request import Completion, LMRef, Message, Request, Sampling
from harness.prompt import possible_replies
from tests.tiny_llama import make_tiny_llama

CHOICES = ("answer: virginica", "answer: versicolor", "answer: setosa", "answer: set", "answer: setosa rosa")


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


def test_which_modules_have_a_list_of_replies() -> None:
    @module
    def size(x: int) -> Size: ...

    @module
    def sure(x: int) -> bool: ...

    @module
    def digit(x: int) -> Literal[1, "1", "two words"]: ...

    @module
    def free(x: int) -> str: ...

    @module(reasoning=True)
    def thought(x: int) -> Size: ...

    replies = [possible_replies(made.signature) for made in (size, sure, digit, free, thought)]
    assert replies == [
        ("answer: small", "answer: large"),
        ("answer: true", "answer: false"),
        ("answer: 1", 'answer: "1"', "answer: two words"),
        (),
        (),
    ]


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalProvider]:
    folder = tmp_path_factory.mktemp("model")
    make_tiny_llama(folder, texts=[*CHOICES, "What is it?"])
    made = LocalProvider(f"local/{folder}")
    yield made
    made.close()


def ask(provider: LocalProvider, requests: list[Request]) -> list[Completion]:
    async def all_of_them() -> list[Completion]:
        return await asyncio.gather(*map(provider.complete, requests))

    return asyncio.run(all_of_them())


def request(provider: LocalProvider, rollout: int, choices: tuple[str, ...], temperature: float = 1.0) -> Request:
    sampling = Sampling(temperature, max_tokens=40)
    return Request(LMRef(provider.model), (Message("user", "What is it?"),), sampling, rollout, 0, choices)


def test_every_sampled_answer_is_one_of_the_list(provider: LocalProvider) -> None:
    answers = ask(provider, [request(provider, rollout, CHOICES) for rollout in range(300)])
    assert {answer.finish for answer in answers} == {"stop"}
    found = Counter(answer.text for answer in answers)
    assert set(found) <= set(CHOICES)
    assert len(found) >= 3


def test_the_list_of_one_call_does_not_bind_its_neighbours(provider: LocalProvider) -> None:
    free = [request(provider, rollout, ()) for rollout in range(6)]
    bound = [request(provider, rollout, CHOICES[:2], 0.0) for rollout in range(6)]
    mixed = ask(provider, [call for pair in zip(free, bound, strict=True) for call in pair])
    assert [answer.text for answer in mixed[0::2]] == [ask(provider, [call])[0].text for call in free]
    assert {answer.text for answer in mixed[1::2]} <= set(CHOICES[:2])
    assert len({answer.text for answer in mixed[1::2]}) == 1
