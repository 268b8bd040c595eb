"""Iris: 150 flowers, 50 each for training, validation and test, as in the paper."""

from __future__ import annotations

import random
from typing import Any

from harness import suite
from programs.iris import classify

FIELDS = ("sepal_length", "sepal_width", "petal_length", "petal_width")
SPLITS = ("train", "validation", "test")


def iris_splits() -> dict[str, list[dict[str, Any]]]:
    """The rows of scikit-learn's copy, the same three splits every time, each class spread evenly over them."""
    from sklearn.datasets import load_iris

    iris = load_iris()
    names = [str(name) for name in iris.target_names]
    # Three pairs of flowers measure the same; their number tells them apart.
    rows = [
        {"flower": number, **dict(zip(FIELDS, map(float, values), strict=True)), "species": names[label]}
        for number, (values, label) in enumerate(zip(iris.data, iris.target, strict=True))
    ]
    rng = random.Random(0)
    splits: dict[str, list[dict[str, Any]]] = {name: [] for name in SPLITS}
    place = 0
    for name in names:
        own = [row for row in rows if row["species"] == name]
        rng.shuffle(own)
        for row in own:
            splits[SPLITS[place % len(SPLITS)]].append(row)
            place += 1
    for rows_of_split in splits.values():
        rng.shuffle(rows_of_split)
    return splits


# Soylu et al. 2024, Table 1; nothing where no run passed, so that there was nothing to train on.
REFERENCES = {
    "mistral-7b-instruct-v0.2": {
        "vanilla": 26.0, "p": 57.3, "w": 29.3, "p -> p": 59.3, "w -> w": 38.0, "p -> w": 30.7, "w -> p": 66.7,
        "p -> w -> p": 52.7,
    },
    "llama-2-7b-chat": {"vanilla": 0.0, "p": 56.7, "p -> p": 64.0, "p -> w": 26.7, "p -> w -> p": 65.3},
    "llama-3-8b-instruct": {
        "vanilla": 48.0, "p": 79.3, "w": 37.3, "p -> p": 82.0, "w -> w": 39.3, "p -> w": 44.0, "w -> p": 78.7,
        "p -> w -> p": 79.3,
    },
}  # fmt: skip


@suite(
    program=classify,
    data=iris_splits,
    threshold=0.85,
    references=REFERENCES,
    stratify="species",
    settings={"prompt_train": 15, "prompt_validation": 35},
)
def test_iris(example, prediction):
    assert prediction == example.species
