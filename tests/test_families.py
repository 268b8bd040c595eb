"""LM families: what their chat templates make of prompts and answers, and that tuned LMs end their turns."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.context import Context, running
from harness.errors import InvalidRequestError, ParseError
from harness.lm.client import Client
from harness.lm.encode import encode_example, encode_prompt, encode_reply, end_of_turn, stop_tokens
from harness.lm.endpoint import Endpoint
from harness.lm.local import LocalProvider, source_of
from harness.lm.providers import make_provider_factory
from harness.lm.request import LMRef, Message, Request, Sampling
from harness.state import State
from harness.train.adapters import Adapters
from harness.train.job import ChatExample, LoraSettings, TrainingJob
from tests.families import FAMILIES, LLAMA2, LLAMA3, LLAMA3_TEMPLATE, MISTRAL, Family, make_family, make_tokenizer
from tests.http_lm import HttpLM

PROMPT = (
    Message("system", "Name it."),
    Message("user", "petal 1"),
    Message("assistant", "setosa"),
    Message("user", "petal 4"),
)
EXAMPLE = ChatExample(PROMPT, "virginica")

# By hand, from the published formats: the text, and its pieces before and after the border of what is learned.
MISTRAL_TEXT = "<s>[INST] Name it.\n\npetal 1 [/INST]setosa</s>[INST] petal 4 [/INST]virginica</s>"
MISTRAL_PIECES = (
    "<s> ▁[INST] ▁Name ▁it . <0x0A> <0x0A> petal ▁1 ▁[/INST] setosa </s> ▁[INST] ▁petal ▁4 ▁[/INST]",
    "virginica </s>",
)
LLAMA2_TEXT = (
    "<s>[INST] <<SYS>>\nName it.\n<</SYS>>\n\npetal 1 [/INST] setosa </s><s>[INST] petal 4 [/INST] virginica </s>"
)
LLAMA2_PIECES = (
    (
        "<s> ▁[INST] ▁<<SYS>> <0x0A> Name ▁it . <0x0A> <</SYS>> <0x0A> <0x0A> petal ▁1 ▁[/INST] ▁setosa ▁ </s> "
        "<s> ▁[INST] ▁petal ▁4 ▁[/INST]"
    ),
    "▁virginica ▁ </s>",
)
LLAMA3_TEXT = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nName it.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\npetal 1<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nsetosa<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\npetal 4<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nvirginica<|eot_id|>"
)
LLAMA3_PIECES = (
    (
        "<|begin_of_text|> <|start_header_id|> system <|end_header_id|> ĊĊ Name Ġit . <|eot_id|> "
        "<|start_header_id|> user <|end_header_id|> ĊĊ petal Ġ 1 <|eot_id|> "
        "<|start_header_id|> assistant <|end_header_id|> ĊĊ setosa <|eot_id|> "
        "<|start_header_id|> user <|end_header_id|> ĊĊ petal Ġ 4 <|eot_id|> "
        "<|start_header_id|> assistant <|end_header_id|> ĊĊ"
    ),
    "virginica <|eot_id|>",
)
EXPECTED = {
    "mistral": (MISTRAL_TEXT, MISTRAL_PIECES),
    "llama-2": (LLAMA2_TEXT, LLAMA2_PIECES),
    "llama-3": (LLAMA3_TEXT, LLAMA3_PIECES),
}

named = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("families")
    return {family.name: make_family(family, home / family.name) for family in FAMILIES}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Adapters:
    return Adapters(tmp_path_factory.mktemp("kept") / "adapters")


@pytest.fixture(scope="module")
def providers(folders: dict[str, Path], adapters: Adapters) -> Iterator[dict[str, LocalProvider]]:
    made = {name: LocalProvider(f"local/{folder}", adapters) for name, folder in folders.items()}
    yield made
    for provider in made.values():
        provider.close()


@named
def test_ids_and_mask_are_those_written_by_hand(family: Family) -> None:
    text, pieces = EXPECTED[family.name]
    prompt, learned = (part.split() for part in pieces)
    tokenizer = make_tokenizer(family)
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    expected = [vocabulary[piece] for piece in [*prompt, *learned]]
    ids, mask = encode_example(tokenizer, EXAMPLE)
    assert tokenizer.convert_ids_to_tokens(ids) == [*prompt, *learned]
    assert ids == expected
    assert mask == [0] * len(prompt) + [1] * len(learned)
    assert encode_prompt(tokenizer, PROMPT) == expected[: len(prompt)]
    assert tokenizer.encode(text, add_special_tokens=False) == expected


def test_the_ids_themselves() -> None:
    """A short example as bare numbers, counted off the vocabularies of ``tests/families.py``."""
    example = ChatExample((Message("user", "."),), ".")
    # 3 special tokens, 256 bytes, the blank (259), 28 letters from "." (260) on, then what merges make.
    assert encode_example(make_tokenizer(MISTRAL), example) == (
        [1, 293, 259, 260, 299, 260, 2],
        [0, 0, 0, 0, 0, 1, 1],
    )
    assert encode_example(make_tokenizer(LLAMA2), example) == (
        [1, 293, 259, 260, 299, 259, 260, 259, 2],
        [0, 0, 0, 0, 0, 1, 1, 1, 1],
    )
    # 5 special tokens, 256 bytes from "!" (5) on, two line feeds (261), then the roles.
    assert encode_example(make_tokenizer(LLAMA3), example) == (
        [0, 2, 269, 3, 261, 18, 4, 2, 277, 3, 261, 18, 4],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1],
    )


@named
def test_the_turn_ends_where_the_template_says(family: Family) -> None:
    tokenizer = make_tokenizer(family)
    end = tokenizer.convert_tokens_to_ids(family.end)
    assert end_of_turn(tokenizer) == end
    assert stop_tokens(tokenizer, None) == {end, tokenizer.eos_token_id}
    assert (family is LLAMA3) == (end != tokenizer.eos_token_id)


@named
@pytest.mark.parametrize("said", [" virginica", "virginica ", "\n virginica\n"])
def test_blanks_around_an_answer_do_not_pile_up(family: Family, said: str) -> None:
    """Templates write a blank before an answer; what an LM said with it is taught with one, however often."""
    tokenizer = make_tokenizer(family)
    assert encode_example(tokenizer, ChatExample(PROMPT, said)) == encode_example(tokenizer, EXAMPLE)


def test_a_template_that_writes_the_date_gives_the_same_prompt_every_day() -> None:
    """Llama 3.2, Granite, SmolLM3 and others tell the LM what day it is."""
    dated = "{{ 'Today is ' + strftime_now('%d %b %Y') + '. ' }}" + LLAMA3_TEMPLATE
    tokenizer = make_tokenizer(replace(LLAMA3, template=dated))
    assert tokenizer.decode(encode_prompt(tokenizer, PROMPT)).startswith("Today is 26 Jul 2024. <|begin_of_text|>")
    ids, mask = encode_example(tokenizer, EXAMPLE)
    assert tokenizer.decode(ids[mask.index(1) :]) == "virginica<|eot_id|>"
    assert ids[: mask.index(1)] == encode_prompt(tokenizer, PROMPT)


def test_special_tokens_are_collected_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some tokenizers have thousands."""
    tokenizer, asked = make_tokenizer(LLAMA3), []
    added = type(tokenizer).added_tokens_decoder
    monkeypatch.setattr(
        type(tokenizer), "added_tokens_decoder", property(lambda self: asked.append(self) or added.fget(self))
    )
    for _ in range(3):
        encode_prompt(tokenizer, PROMPT)
    assert len(asked) == 1


def controls(tokenizer: Any, ids: list[int]) -> list[str]:
    return [token for token in tokenizer.convert_ids_to_tokens(ids) if token in tokenizer.all_special_tokens]


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("name", [*(family.name for family in FAMILIES), "nano"])
def test_special_tokens_in_data_are_text(name: str, place: int) -> None:
    """No text of a row or of an earlier answer ends its turn and forges others."""
    from transformers import AutoTokenizer

    made = {family.name: make_tokenizer(family) for family in FAMILIES if family.name == name}
    tokenizer = made.get(name) or AutoTokenizer.from_pretrained(source_of("local/nano"))
    # One after the other, inside each other, and alone at the ends.
    special = "".join(tokenizer.all_special_tokens)
    forged = f"{special} {special[0]}{special} and {special}"
    texts = [*(message.content for message in PROMPT), EXAMPLE.completion]
    texts[place] = f"{forged} petal {forged}"
    *contents, completion = texts
    messages = tuple(Message(turn.role, text) for turn, text in zip(PROMPT, contents, strict=True))
    plain, plain_mask = encode_example(tokenizer, EXAMPLE)
    ids, mask = encode_example(tokenizer, ChatExample(messages, completion))
    assert controls(tokenizer, ids) == controls(tokenizer, plain)
    assert encode_prompt(tokenizer, messages) == ids[: mask.index(1)]
    learned, plain_learned = ids[mask.index(1) :], plain[plain_mask.index(1) :]
    assert (learned == plain_learned) == (place < 4)
    # Nothing is lost; a SentencePiece tokenizer puts a blank where a piece begins.
    assert "".join(texts[place].split()) in "".join(tokenizer.decode(ids).split())
    assert not set(encode_reply(tokenizer, forged)) & set(tokenizer.all_special_ids)


def test_a_conversation_that_does_not_alternate_is_refused() -> None:
    twice = [Message("user", "petal 1"), Message("user", "petal 4")]
    for family in (MISTRAL, LLAMA2):
        with pytest.raises(InvalidRequestError, match="must alternate"):
            encode_prompt(make_tokenizer(family), twice)


def test_a_template_that_leaves_the_instruction_out() -> None:
    tokenizer = make_tokenizer(MISTRAL)
    tokenizer.chat_template = (
        "{% for message in messages if message['role'] != 'system' %}[INST]{{ message['content'] }}{% endfor %}"
    )
    assert "Name it." in tokenizer.decode(encode_prompt(tokenizer, PROMPT))


def test_a_template_that_rewrites_earlier_turns() -> None:
    """Where prompt and answer do not join (a template that drops reasoning), the answer stands by itself."""
    tokenizer = make_tokenizer(MISTRAL)
    tokenizer.chat_template = "{{ messages | length }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
    ids, mask = encode_example(tokenizer, ChatExample((Message("user", "petal 1"),), "setosa"))
    learned = [token for token, on in zip(ids, mask, strict=True) if on]
    assert tokenizer.convert_ids_to_tokens(learned) == ["▁setosa", "</s>"]


@named
def test_listed_replies_are_the_tokens_that_training_teaches(
    family: Family, providers: dict[str, LocalProvider]
) -> None:
    _, (_, learned) = EXPECTED[family.name]
    tokenizer = make_tokenizer(family)
    assert tokenizer.convert_ids_to_tokens(encode_reply(tokenizer, "virginica")) == learned.split()[:-1]
    choices = ("setosa", "virginica")
    request = Request(LMRef("local/tiny"), PROMPT, Sampling(temperature=2.0, max_tokens=40), choices=choices)
    done = asyncio.run(providers[family.name].complete(request))
    assert done.text.strip() in choices
    assert done.finish == "stop"


@named
def test_after_training_a_generation_stops_by_itself(
    family: Family, providers: dict[str, LocalProvider], adapters: Adapters
) -> None:
    examples = tuple(
        ChatExample((Message("system", "Name it."), Message("user", f"petal {size}")), answer)
        for size, answer in [("1", "setosa"), ("4", "virginica"), ("1 1", "setosa"), ("4 4", "virginica")]
    )
    provider = providers[family.name]
    lm = LMRef("local/tiny")
    settings = LoraSettings(rank=8, alpha=16, learning_rate=1e-2, epochs=30, min_steps=0, batch_size=4)
    tuned = LMRef("local/tiny", provider.train(TrainingJob(lm, examples, settings, 0), adapters).adapter)

    async def said(lm: LMRef) -> list[tuple[str, str]]:
        requests = [Request(lm, example.messages, Sampling(max_tokens=40)) for example in examples]
        done = await asyncio.gather(*map(provider.complete, requests))
        return [(one.text.strip(), one.finish) for one in done]

    wanted = [(example.completion, "stop") for example in examples]
    assert asyncio.run(said(lm)) != wanted
    assert asyncio.run(said(tuned)) == wanted


def test_programs_know_nothing_of_templates(providers: dict[str, LocalProvider]) -> None:
    from programs.iris import classify

    asked: dict[str, list[Any]] = {}
    for name, provider in providers.items():
        seen: list[Any] = asked.setdefault(name, [])
        client = Client(None, lambda _, made=provider: made, on_call=lambda request, _, into=seen: into.append(request))
        context = Context(client, State(LMRef("local/tiny")), Sampling(max_tokens=2))
        with running(context), pytest.raises(ParseError):
            classify(1.4, 0.2, 5.1, 3.5)
    first, *others = asked.values()
    assert [message.role for message in first[0].messages] == ["system", "user"]
    assert all(other == first for other in others)


def endpoint_client(server: HttpLM, *, system_role: bool) -> Client:
    settings = Endpoint(server.base_url, timeout=10, system_role=system_role)
    return Client(None, make_provider_factory({"hosted_vllm/*": settings}))


def test_an_endpoint_without_a_system_role_gets_the_instruction_in_the_first_user_turn() -> None:
    with HttpLM() as server, endpoint_client(server, system_role=False) as client:
        client.call(Request(LMRef("hosted_vllm/m"), PROMPT))
        assert server.requests[0]["messages"] == [
            {"role": "user", "content": "Name it.\n\npetal 1"},
            {"role": "assistant", "content": "setosa"},
            {"role": "user", "content": "petal 4"},
        ]


@pytest.mark.parametrize("kind", ["system-role", "alternate"])
def test_an_endpoint_that_refuses_a_system_turn_says_what_to_set(kind: str) -> None:
    with HttpLM(fault=lambda *_: kind) as server, endpoint_client(server, system_role=True) as client:
        with pytest.raises(InvalidRequestError, match="system_role = false"):
            client.call(Request(LMRef("hosted_vllm/m"), PROMPT))
        assert len(server.requests) == 1
