"""GSM8K: the last number of the answer, on the splits of the paper (1000 / 500 / 1319)."""

from __future__ import annotations

import random
from typing import Any

from harness import suite
from harness.metrics import last_number, same_number
from harness.sources import HubData, rows
from programs.gsm8k import answer_problem

TRAIN, VALIDATION = 1000, 500
FIELDS = ("question", "answer")
REPOSITORY, REVISION = "openai/gsm8k", "e53f048856ff4f594e959d75785d2c2d37b678ee"


def gsm8k_splits() -> dict[str, list[dict[str, Any]]]:
    """Training and validation from the official training set, at random but the same every time; the official test.

    Where the training set has fewer than 1500 problems, training and validation shrink by one factor.
    """
    given = _rows("train")
    random.Random(0).shuffle(given)
    share = min(1.0, len(given) / (TRAIN + VALIDATION))
    train, validation = int(TRAIN * share), int(VALIDATION * share)
    return {"train": given[:train], "validation": given[train : train + validation], "test": _rows("test")}


def _rows(split: str) -> list[dict[str, Any]]:
    found = rows(HubData(REPOSITORY, "main", split, REVISION, file=f"gsm8k_{split}"), FIELDS)
    return [{"question": row["question"], "gold": row["answer"].rpartition("#### ")[2]} for row in found]


# Soylu et al. 2024, Table 1.
REFERENCES = {
    "mistral-7b-instruct-v0.2": {
        "vanilla": 40.3, "p": 46.4, "w": 40.7, "p -> p": 47.7, "w -> w": 42.8, "p -> w": 47.3, "w -> p": 48.3,
        "p -> w -> p": 46.8,
    },
    "llama-2-7b-chat": {
        "vanilla": 24.0, "p": 26.0, "w": 24.0, "p -> p": 24.7, "w -> w": 24.1, "p -> w": 27.3, "w -> p": 26.6,
        "p -> w -> p": 26.3,
    },
    "llama-3-8b-instruct": {
        "vanilla": 72.7, "p": 77.9, "w": 75.1, "p -> p": 77.6, "w -> w": 44.1, "p -> w": 77.6, "w -> p": 78.9,
        "p -> w -> p": 77.0,
    },
}  # fmt: skip


@suite(
    program=answer_problem,
    data=gsm8k_splits,
    references=REFERENCES,
    needs="an instruction-tuned LM",
)
def test_gsm8k(example, prediction):
    assert same_number(prediction, example.gold), f"{last_number(prediction)} is not {example.gold}"
