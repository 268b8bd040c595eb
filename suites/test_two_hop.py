"""Two-hop questions over a few pages, generated: the shape of HotPotQA for an LM with a few million weights."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from harness import drawn, suite
from programs.two_hop import answer_two_hop

# How hard it is, in one place: pages beside the two that are needed, whether names may have a second word, and how
# many of the nouns, sentences and questions below are used.
OTHERS = 1
SECOND_WORDS = False
NOUNS = 2
VARIETY = 1
THRESHOLD = 0.3
SETTINGS = {"prompt_train": 50, "prompt_validation": 100, "candidates": 6, "demos": 4, "rollouts": 4, "max_tokens": 24}

# No word that the embedded LM learned from begins like one of these.
BEGINNINGS = [
    "Blav", "Blem", "Blor", "Crad", "Crev", "Crim", "Glab", "Glin", "Glom", "Glav", "Skad", "Skel", "Skov", "Skum",
    "Cron", "Blid", "Glur",
]  # fmt: skip
ENDINGS = [
    "a", "by", "den", "ella", "er", "ette", "ia", "ik", "ima", "in", "ock", "ola", "on", "or", "ova", "us",
]  # fmt: skip

# noun: how a page says it. The first hop leads from a work to a person, the second from the person to a place.
PERSONS = {
    "composer": ("The notes came from the composer {o}.", "Its composer is {o}."),
    "sculptor": ("The sculptor {o} carved it.", "Its sculptor is {o}."),
    "architect": ("The architect {o} drew the plans.", "Its architect is {o}."),
    "gardener": ("The gardener {o} planted it.", "Its gardener is {o}."),
}
PLACES = {
    "island": ("The island is {o}.", "Their island is named {o}."),
    "valley": ("The valley is {o}.", "Their valley is named {o}."),
    "parish": ("The parish is {o}.", "Their parish is named {o}."),
    "district": ("The district is {o}.", "Their district is named {o}."),
}
QUESTIONS = (
    "Which {place} does the {person} of {work} call home?",
    "To which {place} did the {person} of {work} return?",
)


@st.composite
def names(draw: st.DrawFn) -> str:
    """An invented name."""
    words = [draw(st.sampled_from(BEGINNINGS)) + draw(st.sampled_from(ENDINGS))]
    if SECOND_WORDS and draw(st.booleans()):
        words.append(draw(st.sampled_from(BEGINNINGS)) + draw(st.sampled_from(ENDINGS)))
    return " ".join(words)


def sentences(templates: tuple[str, ...]) -> st.SearchStrategy[str]:
    """One of the sentences in use."""
    return st.sampled_from(templates[:VARIETY])


@st.composite
def questions(draw: st.DrawFn) -> dict[str, Any]:
    """A question, the pages that hold its two facts among others of the same kinds, and the answer."""
    person, place = (draw(st.sampled_from(list(nouns)[:NOUNS])) for nouns in (PERSONS, PLACES))
    count = 2 + OTHERS
    found = draw(st.lists(names(), min_size=2 * count, max_size=2 * count, unique=True))
    titles, others = found[:count], found[count:]
    work, who, where = titles[0], titles[1], others[1]
    pages = [_page(work, draw(sentences(PERSONS[person])), who), _page(who, draw(sentences(PLACES[place])), where)]
    for number, (title, other) in enumerate(zip(titles[2:], others[2:], strict=True)):
        kind = (PERSONS[person], PLACES[place])[number % 2]
        pages.append(_page(title, draw(sentences(kind)), other))
    question = draw(sentences(QUESTIONS)).format(place=place, person=person, work=work)
    return {"question": question, "pages": draw(st.permutations(pages)), "place": where}


def _page(title: str, fact: str, other: str) -> str:
    return f"{title} | {fact.format(o=other)}"


@suite(
    program=answer_two_hop,
    data=drawn(questions(), train=150, validation=75, test=150, unique="question"),
    threshold=THRESHOLD,
    settings=SETTINGS,
)
def test_two_hop(example, prediction):
    assert prediction.strip(" .") == example.place
