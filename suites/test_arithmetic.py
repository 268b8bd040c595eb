"""Word problems of one or two steps, generated: the shape of GSM8K for an LM with a few million weights."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from harness import drawn, suite
from programs.arithmetic import solve

# How hard it is, in one place. Starts lie above those of the stories that the embedded LM learned from (2 to 60);
# the first ``VARIETY`` sentences of each list below are used.
START = (61, 79)
CHANGE = (2, 9)
STEPS = (1, 2)
VARIETY = 2
THRESHOLD = 0.4
SETTINGS = {"prompt_train": 50, "prompt_validation": 100, "candidates": 6, "demos": 4, "rollouts": 4, "max_tokens": 48}

NAMES = [
    "Aldo", "Beatrix", "Cyril", "Delphine", "Ezra", "Fiona", "Gilda", "Hector", "Ingrid", "Jasper", "Kasimir",
    "Ludmila", "Mona", "Nestor", "Ophelia",
]  # fmt: skip
THINGS = [
    "acorns", "badges", "buckets", "feathers", "kites", "lanterns", "mugs", "needles", "parcels", "ropes",
    "shirts", "tiles", "whistles",
]  # fmt: skip
OPENINGS = (
    "On the boat {n} counts {a} {o}.",
    "{n} looks after {a} {o}.",
    "The old barn keeps {a} {o}.",
    "{n} inherits {a} {o}.",
)
GAINS = (
    "An uncle leaves {b} further {o}.",
    "{n} repairs {b} {o} and keeps these too.",
    "A parcel with {b} {o} comes by post.",
)
LOSSES = (
    "A storm carries off {b} {o}.",
    "{n} trades away {b} {o} at the fair.",
    "The mice ruin {b} {o}.",
)
QUESTIONS = (
    "What number of {o} remains?",
    "Which number of {o} is that in all?",
    "Count the {o} again: how many?",
)


def sentences(templates: tuple[str, ...]) -> st.SearchStrategy[str]:
    """One of the sentences in use."""
    return st.sampled_from(templates[:VARIETY])


@st.composite
def problems(draw: st.DrawFn) -> dict[str, Any]:
    """A story and the number it asks for."""
    words = {"n": draw(st.sampled_from(NAMES)), "o": draw(st.sampled_from(THINGS))}
    count = draw(st.integers(*START))
    story = [draw(sentences(OPENINGS)).format(a=count, **words)]
    for _ in range(draw(st.integers(*STEPS))):
        change, gain = draw(st.integers(*CHANGE)), draw(st.booleans())
        count += change if gain else -change
        story.append(draw(sentences(GAINS if gain else LOSSES)).format(b=change, **words))
    story.append(draw(sentences(QUESTIONS)).format(**words))
    return {"question": " ".join(story), "number": count}


@suite(
    program=solve,
    data=drawn(problems(), train=150, validation=75, test=150, unique="question"),
    threshold=THRESHOLD,
    settings=SETTINGS,
)
def test_arithmetic(example, prediction):
    assert prediction == example.number
