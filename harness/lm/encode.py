"""Chat messages to token ids: the one encoding that both generation and training use.

Special tokens are the template's alone. Messages are data: one that spells ``<|end|>`` ends no turn.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from weakref import WeakKeyDictionary

from harness.errors import InvalidRequestError
from harness.lm.request import Message
from harness.train.job import ChatExample

__all__ = ["encode_example", "encode_prompt", "encode_reply", "end_of_turn", "fold_system", "stop_tokens"]

# Rendered as an assistant's answer to see what the template writes after one; no template has it in its own text.
_PROBE = "\ue000probe\ue000"

# Put into texts where they are encoded in two pieces, so that what they spell there is no special token.
_CUT = "\ue000cut\ue000"

# What templates that write today's date take for it: answers must not change overnight. (Llama 3's own default.)
_TODAY = datetime(2024, 7, 26)

_SPECIAL: WeakKeyDictionary[Any, re.Pattern[str]] = WeakKeyDictionary()

Turn = dict[str, str]
"""A chat turn as templates take it: role and content."""


def encode_prompt(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """The prompt's token ids under the tokenizer's chat template, up to where the assistant's answer begins.

    Where the template refuses a system turn, or leaves it out, its text is put before the first user turn.

    Raises:
        InvalidRequestError: the tokenizer has no chat template, or the template refuses the messages.
    """
    return _ids(tokenizer, _prompt(tokenizer, messages)[1])


def encode_example(tokenizer: Any, example: ChatExample) -> tuple[list[int], list[int]]:
    """Token ids of a prompt and its completion, and a mask that is 1 on the completion and its end of turn.

    The completion reads as the template writes an assistant's turn, whatever it puts around one (a blank, say), so
    that what is learned is what demos show. What the template writes after the end of turn is left out.
    """
    turns, text = _prompt(tokenizer, example.messages)
    prompt = _ids(tokenizer, text)
    completion = _turn(tokenizer, turns, text, prompt, example.completion)
    return prompt + completion, [0] * len(prompt) + [1] * len(completion)


def encode_reply(tokenizer: Any, text: str) -> list[int]:
    """Token ids of an answer as the template writes an assistant's turn, without its end of turn."""
    turns, prompt = _prompt(tokenizer, (Message("user", "."),))
    return _turn(tokenizer, turns, prompt, _ids(tokenizer, prompt), text)[:-1]


def fold_system(turns: Sequence[Turn]) -> list[Turn] | None:
    """The turns with the system's text before the first user turn; None where there is no such pair."""
    system = [turn["content"] for turn in turns if turn["role"] == "system"]
    rest = [dict(turn) for turn in turns if turn["role"] != "system"]
    if not system or not rest or rest[0]["role"] != "user":
        return None
    rest[0]["content"] = "\n\n".join([*system, rest[0]["content"]])
    return rest


def end_of_turn(tokenizer: Any) -> int:
    """The token the chat template writes after an assistant's answer; the tokenizer's eos where it writes none.

    Raises:
        InvalidRequestError: there is neither.
    """
    turns = [{"role": "user", "content": "."}, {"role": "assistant", "content": _PROBE}]
    text = _rendered(tokenizer, turns)
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


def _prompt(tokenizer: Any, messages: Sequence[Message]) -> tuple[list[Turn], str]:
    """The turns as the template takes them, and the text it makes of them."""
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise InvalidRequestError(
            "The tokenizer has no chat template, so it cannot be prompted with chat messages. "
            "Use a chat (instruct) model."
        )
    contents = _without_special(tokenizer, [message.content for message in messages])
    turns = [{"role": message.role, "content": content} for message, content in zip(messages, contents, strict=True)]
    folded = fold_system(turns)
    try:
        text = _rendered(tokenizer, turns, asking=True)
        if folded is None or all(turn["content"].strip() in text for turn in turns if turn["role"] == "system"):
            return turns, text
    except TemplateError as error:
        if folded is None:
            raise InvalidRequestError(f"The model's chat template refuses the messages: {error}") from error
    try:
        return folded, _rendered(tokenizer, folded, asking=True)
    except TemplateError as error:
        raise InvalidRequestError(f"The model's chat template refuses the messages: {error}") from error


def _turn(tokenizer: Any, turns: list[Turn], text: str, prompt: list[int], completion: str) -> list[int]:
    """Token ids of an assistant's turn after its prompt, end of turn included."""
    end = end_of_turn(tokenizer)
    # LMs whose template writes a blank before an answer say it too; without this it would be written twice.
    (answer,) = _without_special(tokenizer, [completion.strip()])
    whole = _rendered(tokenizer, [*turns, {"role": "assistant", "content": answer}])
    written = whole.removeprefix(text)
    if not whole.startswith(text) or answer not in written:
        # The template changes earlier turns or the answer itself (it drops reasoning, say).
        return [*_ids(tokenizer, *_without_special(tokenizer, [completion])), end]
    ids = _ids(tokenizer, whole)
    # A token may span the border: then the answer begins where generation would begin it.
    ids = ids[len(prompt) :] if ids[: len(prompt)] == prompt else _ids(tokenizer, written)
    if end not in ids:
        return [*ids, end]
    return ids[: len(ids) - ids[::-1].index(end)]


def _rendered(tokenizer: Any, turns: list[Turn], *, asking: bool = False) -> str:
    """The turns as text, with the beginning of the assistant's answer where it is asked for one."""
    return str(
        tokenizer.apply_chat_template(turns, add_generation_prompt=asking, tokenize=False, strftime_now=_TODAY.strftime)
    )


def _without_special(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """The texts with a cut in everything that the tokenizer would read as a special token; others as they are."""
    special = _special(tokenizer)
    if not any(special.search(text) for text in texts):
        return list(texts)
    # A lookahead finds those that overlap as well; after its first character each of them is broken.
    start = re.compile(f"(?={special.pattern})(.)", re.DOTALL)
    return [start.sub(rf"\1{_CUT}", text) for text in texts]


def _special(tokenizer: Any) -> re.Pattern[str]:
    """What the tokenizer would read as a special token; made once, since some have thousands of them."""
    found = _SPECIAL.get(tokenizer)
    if found is None:
        texts = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        found = re.compile("|".join(re.escape(text) for text in texts if len(text) > 1) or "(?!)")
        _SPECIAL[tokenizer] = found
    return found


def _ids(tokenizer: Any, text: str) -> list[int]:
    # The template writes the special tokens itself, the one at the beginning included.
    pieces = text.split(_CUT)
    return [int(token) for piece in pieces for token in tokenizer.encode(piece, add_special_tokens=False)]
