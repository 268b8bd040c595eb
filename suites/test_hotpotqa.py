"""HotPotQA over a whole corpus: normalized exact match, on the splits of the paper (1000 / 500 / 1500)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Any

from harness import suite
from harness.metrics import exact_match, normalize_answer
from harness.sources import HubData, find_file, read_rows
from programs.hotpotqa import CORPUS, answer_multihop

TRAIN, VALIDATION, TEST = 1000, 500, 1500
REPOSITORY, REVISION = "hotpotqa/hotpot_qa", "1908d6afbbead072334abe2965f91bd2709910ab"
FILE = "hotpotqa_distractor"
FIELDS = ("id", "question", "answer")


def hotpotqa_splits() -> dict[str, list[dict[str, Any]]]:
    """The paper's splits, or as large a part of them as the data allows.

    Test questions are of the official development set. Training and validation take the questions of the official
    training set first, then development questions that test leaves over, shuffled together so that both are alike.
    Where there are fewer than 3000 questions in all, or fewer than 1500 for the test, all three sizes shrink by one
    factor.
    """
    find_file(CORPUS)  # without a corpus to search there is no task: say so before any LM is called
    train, dev = _questions()
    rng = random.Random(0)
    rng.shuffle(train)
    rng.shuffle(dev)
    share = min(1.0, (len(train) + len(dev)) / (TRAIN + VALIDATION + TEST), len(dev) / TEST)
    sizes = [int(size * share) for size in (TRAIN, VALIDATION, TEST)]
    rest = (train + dev[sizes[2] :])[: sizes[0] + sizes[1]]
    rng.shuffle(rest)
    return {"train": rest[: sizes[0]], "validation": rest[sizes[0] :], "test": dev[: sizes[2]]}


def _questions() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Official training and development questions."""
    path = find_file(FILE)
    if path is None:
        hub = [HubData(REPOSITORY, "distractor", split, REVISION, file=FILE) for split in ("train", "validation")]
        return _rows(hub[0].load()), _rows(hub[1].load())
    found = read_rows(path, ("split", *FIELDS))
    train, dev = ([row for row in found if row["split"] == split] for split in ("train", "dev"))
    return _rows(train), _rows(dev)


def _rows(found: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{key: row[key] for key in FIELDS} for row in found]


# Soylu et al. 2024, Table 1; there the retriever was ColBERTv2.
REFERENCES = {
    "mistral-7b-instruct-v0.2": {
        "vanilla": 17.2, "p": 33.8, "w": 22.9, "p -> p": 33.8, "w -> w": 24.0, "p -> w": 36.3, "w -> p": 33.0,
        "p -> w -> p": 37.6,
    },
    "llama-2-7b-chat": {
        "vanilla": 13.2, "p": 33.3, "w": 12.2, "p -> p": 32.6, "w -> w": 13.0, "p -> w": 32.7, "w -> p": 34.2,
        "p -> w -> p": 34.8,
    },
    "llama-3-8b-instruct": {
        "vanilla": 31.6, "p": 46.9, "w": 34.8, "p -> p": 46.5, "w -> w": 34.4, "p -> w": 42.8, "w -> p": 43.6,
        "p -> w -> p": 46.7,
    },
}  # fmt: skip


@suite(
    program=answer_multihop,
    data=hotpotqa_splits,
    references=REFERENCES,
    needs="an instruction-tuned LM",
)
def test_hotpotqa(example, prediction):
    assert exact_match(prediction, example.answer), f"{normalize_answer(prediction)!r} is not {example.answer!r}"
