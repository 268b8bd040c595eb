"""Chat messages to token ids: the one encoding that both generation and training use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.errors import InvalidRequestError
from harness.lm.request import Message
from harness.train.job import ChatExample

__all__ = ["encode_example", "encode_prompt", "end_of_turn", "stop_tokens"]

# Rendered as an assistant's answer to see what the template writes after one; no template has it in its own text.
_PROBE = "\ue000probe\ue000"


def encode_prompt(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """The prompt's token ids under the tokenizer's chat template, up to where the assistant's answer begins.

    Where the template refuses a system turn, its text is put before the first user turn.

    Raises:
        InvalidRequestError: the tokenizer has no chat template, or the template refuses the messages.
    """
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise InvalidRequestError(
            "The tokenizer has no chat template, so it cannot be prompted with chat messages. "
            "Use a chat (instruct) model."
        )
    turns = [{"role": message.role, "content": message.content} for message in messages]
    try:
        return _render(tokenizer, turns)
    except TemplateError as error:
        folded = _fold_system(turns)
        if folded is None:
            raise InvalidRequestError(f"The model's chat template refuses the messages: {error}") from error
        try:
            return _render(tokenizer, folded)
        except TemplateError as again:
            raise InvalidRequestError(f"The model's chat template refuses the messages: {again}") from again


def encode_example(tokenizer: Any, example: ChatExample) -> tuple[list[int], list[int]]:
    """Token ids of a prompt and its completion, and a mask that is 1 on the completion and its end of turn."""
    prompt = encode_prompt(tokenizer, example.messages)
    completion = [int(token) for token in tokenizer.encode(example.completion, add_special_tokens=False)]
    completion.append(end_of_turn(tokenizer))
    return prompt + completion, [0] * len(prompt) + [1] * len(completion)


def end_of_turn(tokenizer: Any) -> int:
    """The token the chat template writes after an assistant's answer; the tokenizer's eos where it writes none.

    Raises:
        InvalidRequestError: there is neither.
    """
    turns = [{"role": "user", "content": "."}, {"role": "assistant", "content": _PROBE}]
    text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    for token in tokenizer.encode(text.rpartition(_PROBE)[2], add_special_tokens=False):
        if token in special:
            return int(token)
    if tokenizer.eos_token_id is None:
        raise InvalidRequestError(
            "The tokenizer has no end-of-sequence token and its chat template ends no turn, so a completion would "
            "never end. Set eos_token in tokenizer_config.json."
        )
    return int(tokenizer.eos_token_id)


def stop_tokens(tokenizer: Any, generation_config: Any) -> frozenset[int]:
    """Every token that ends a completion: the template's, the tokenizer's and the generation config's."""
    listed = getattr(generation_config, "eos_token_id", None)
    tokens = {end_of_turn(tokenizer)}
    for value in (tokenizer.eos_token_id, *(listed if isinstance(listed, (list, tuple)) else (listed,))):
        if value is not None:
            tokens.add(int(value))
    return frozenset(tokens)


def _render(tokenizer: Any, turns: list[dict[str, str]]) -> list[int]:
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False)
    return [int(token) for token in ids]


def _fold_system(turns: list[dict[str, str]]) -> list[dict[str, str]] | None:
    system = [turn["content"] for turn in turns if turn["role"] == "system"]
    rest = [dict(turn) for turn in turns if turn["role"] != "system"]
    if not system or not rest or rest[0]["role"] != "user":
        return None
    rest[0]["content"] = "\n\n".join([*system, rest[0]["content"]])
    return rest
