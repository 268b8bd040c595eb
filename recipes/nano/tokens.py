"""The tokenizer: one token per number, whole common words, byte-level pieces for everything else.

Merges never join a space or an underscore to a word, so a word is cut into the same pieces wherever it stands; common
words have whole-word tokens with and without them. Any UTF-8 text survives encoding and decoding unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from random import Random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from recipes.nano import passages, words
from recipes.nano.episode import ASSISTANT, END, PAD, SYSTEM, USER

SPECIALS = [PAD, SYSTEM, USER, ASSISTANT, END]
DECIMALS = [f"{value / 10:.1f}" for value in range(1000)]
INTEGERS = [str(value) for value in range(2000)]
GLUE = [
    ": ",
    ", ",
    "\n- ",
    "one of ",
    " + ",
    " - ",
    " * ",
    " / ",
    " = ",
    ". ",
    "\n\n",
    "Reply with:",
    "Given:",
]
PHRASES = [
    "think step by step",
    "a whole number",
    "a number",
    "true or false",
    'a list, one "- item" per line',
]
PATTERN = (
    r"Reply with:|Given:|: |, |\n- |\n\n|one of | [+\-*/=] |\. (?=\d)"
    r"|\d{1,2}\.\d|\d{1,4}"
    r"| (?=[\p{Lu}\d])|[ _]?\p{L}+| ?[^\s\p{L}\p{N}]|\p{N}|\s"
)
MERGED = 2000
COLON = ":\u0120"
"""The token between a field's name and its value, as the vocabulary writes it."""
SPACE = "\u0120"
"""The token before a name within a sentence."""
ENDS = ["\u010a", END]
"""The tokens that may follow a field's value."""
ASKED = ["?"]
"""The tokens that end a question."""
PLAIN = [
    *(
        SYSTEM,
        USER,
        ASSISTANT,
        END,
        "\u0120",
        "\u010a",
        "\u010a-\u0120",
        ":\u0120",
        ",\u0120",
        "\u0120-\u0120",
        ".",
        "?",
    ),
    *("|", ":", "The", "Who", "What", "Which", "Where", "answer", "question", "context", "reasoning"),
    *(f"\u0120{word}" for word in words.FUNCTION_WORDS[:40] if len(word) > 1),
]
"""Tokens that tell nothing of what a text is about."""


def _common() -> list[str]:
    """Words that deserve a token of their own, most useful first, without repetition."""
    lists = [
        words.FUNCTION_WORDS,
        words.COMMON,
        words.QUANTITIES,
        words.PARTS,
        words.THINGS,
        words.OUTPUT_NAMES,
        passages.NOUNS,
    ]
    return list(dict.fromkeys(word for found in lists for word in found if word.isalpha() and len(word) > 1))


def _corpus(seed: int) -> Iterator[str]:
    """What the merges are learned from: invented words, and every listed word in lower and upper case."""
    rng = Random(seed)
    everyday = _common() + words.RARE + words.ENGLISH + words.FIRST_NAMES
    for _ in range(6):
        yield from everyday
        yield from (word.capitalize() for word in everyday)
    for _ in range(30000):
        word = words.syllables(rng)
        yield word if rng.random() < 0.6 else word.capitalize()
    yield from (text for text in PHRASES for _ in range(200))


def _splitter() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _bytes(text: str) -> str:
    """Text in the alphabet of byte-level vocabularies."""
    return "".join(
        piece for piece, _ in pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    )


def build(seed: int = 0) -> Tokenizer:
    """Learn the merges and lay out the vocabulary: specials, bytes, pieces, words, then all numbers in order."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[ _\n]"), "removed"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    plain.train_from_iterator(
        _corpus(seed),
        trainers.BpeTrainer(vocab_size=256 + MERGED, initial_alphabet=alphabet, show_progress=False),
    )
    merges = [tuple(pair) for pair in json.loads(plain.to_str())["model"]["merges"]]
    whole = [_bytes(text) for text in GLUE]
    for word in _common():
        whole += [word, _bytes(" " + word)]
    whole += [_bytes("_" + word) for word in (*words.QUANTITIES, "name", "query", "kind", "color", "text")]
    whole += [word.capitalize() for word in words.FUNCTION_WORDS]
    whole += words.FIRST_NAMES
    order = [*SPECIALS, *(letter for letter in alphabet if not letter.isdigit() or not letter.isascii())]
    order += ["".join(pair) for pair in merges] + whole
    order = list(dict.fromkeys(order))
    numbers = DECIMALS + INTEGERS
    vocabulary = {token: index for index, token in enumerate(order + numbers)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    tokenizer.pre_tokenizer = _splitter()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    return tokenizer


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token that the vocabulary must have."""
    found = tokenizer.token_to_id(token)
    if found is None:
        raise KeyError(f"the tokenizer has no token {token!r}; learn it again with `python -m recipes.nano tokenizer`")
    return found


def number_values(tokenizer: Tokenizer) -> tuple[int, list[float]]:
    """The first number's id and the values of all number tokens, which end the vocabulary."""
    return token_id(tokenizer, DECIMALS[0]), [float(text) for text in DECIMALS + INTEGERS]


def twins(tokenizer: Tokenizer) -> list[tuple[int, int]]:
    """Pairs (token, token) of the same word with and without what joins it to the word before."""
    vocabulary = tokenizer.get_vocab()
    found = []
    for token, index in vocabulary.items():
        for prefix in (_bytes(" "), "_"):
            rest = token.removeprefix(prefix)
            if rest != token and rest and rest in vocabulary:
                found.append((index, vocabulary[rest]))
    return sorted(found)


@lru_cache(maxsize=4)
def load(path: Path) -> Tokenizer:
    """The tokenizer from its file."""
    return Tokenizer.from_file(str(path))
