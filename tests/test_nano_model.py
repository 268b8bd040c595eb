"""The embedded LM as it ships: it loads with plain transformers, and it learns from demos."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from recipes.nano.episode import END, messages  # noqa: E402
from recipes.nano.evaluate import Model, exact  # noqa: E402
from recipes.nano.numeric import table  # noqa: E402

FOLDER = Path(__file__).parent.parent / "harness" / "models" / "nano"
SYSTEM = "Name the kind.\n\nReply with:\nanswer: one of pebble, boulder, sand"
CHAT = [
    {"role": "system", "content": SYSTEM},
    {"role": "user", "content": "width: 0.3\nweight: 12"},
    {"role": "assistant", "content": "answer: pebble"},
    {"role": "user", "content": "width: 9.1\nweight: 800"},
    {"role": "assistant", "content": "answer: boulder"},
]


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Model(FOLDER)
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer(model: Model) -> Any:
    return model.tokenizer


def test_the_folder_is_small_and_complete() -> None:
    assert (FOLDER / "model.safetensors").stat().st_size <= 16 * 2**20
    assert not [path for path in FOLDER.iterdir() if path.suffix in {".bin", ".pt", ".pkl"}]
    config = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["rope_parameters"]["rope_theta"] == 1e6


def test_the_rotary_base_survives_loading(model: Model) -> None:
    assert model.model.config.rope_parameters["rope_theta"] == 1e6
    assert model.model.config.head_dim == 32


def test_special_tokens_are_set(tokenizer: Any, model: Model) -> None:
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.padding_side) == ("<|pad|>", END, "left")
    assert model.model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.model.generation_config.pad_token_id == tokenizer.pad_token_id


def test_the_chat_template_renders_the_turns(tokenizer: Any) -> None:
    text = tokenizer.apply_chat_template(CHAT[:2], tokenize=False, add_generation_prompt=True)
    assert text == f"<|system|>{SYSTEM}<|end|><|user|>width: 0.3\nweight: 12<|end|><|assistant|>"
    assert tokenizer.apply_chat_template(CHAT, tokenize=False).endswith("<|assistant|>answer: boulder<|end|>")


def test_the_generation_mask_covers_answers_and_their_ends(tokenizer: Any) -> None:
    made = tokenizer.apply_chat_template(
        CHAT, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, return_tensors=None
    )
    chosen = [token for token, on in zip(made["input_ids"], made["assistant_masks"], strict=True) if on]
    assert tokenizer.decode(chosen) == "answer: pebble<|end|>answer: boulder<|end|>"


@pytest.mark.parametrize("text", ["héllo 👋🏽\r\n\t x", " 007 3.14159 1e-5 -2 12345", "a_b  c\u00a0d", "<not|special>"])
def test_text_round_trips(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_padding_changes_nothing(model: Model) -> None:
    chats = [CHAT[:2], CHAT[:4]]
    assert model.answers(chats) == [model.answers([chat])[0] for chat in chats]


def test_demos_teach_numeric_classes(model: Model) -> None:
    rng = Random(2024)
    made = [table(rng, 13, features=1, classes=3, held_out=True, options=1.0).episode for _ in range(60)]
    hits = exact(model, made, longest=20)
    assert sum(hits) / len(hits) > 0.75


def test_without_demos_an_option_is_named(model: Model) -> None:
    rng = Random(2025)
    made = [table(rng, 1, features=3, classes=3, held_out=True, options=1.0).episode for _ in range(40)]
    torch.manual_seed(0)
    found = model.answers([messages(episode)[:-1] for episode in made], sample=True, longest=24)
    options = [episode.reply[-1][1].removeprefix("one of ").split(", ") for episode in made]
    good = [text.split(": ", 1)[-1] in named for text, named in zip(found, options, strict=True)]
    assert sum(good) / len(good) > 0.6
