"""Question answering over passages and the search queries that lead to them, about an invented world.

A relation ties two kinds of things ("{s} was written by {o}."). A question follows one relation or two; a query names
what to look up next. Some pairs of relations, and some sentences, are kept for the evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from recipes.nano.episode import Episode, Turn, Value
from recipes.nano.words import COMMON, FIRST_NAMES, first_name, invented, listed, proper_name

REASON = ("reasoning", "think step by step")


@dataclass(frozen=True)
class Relation:
    """A fact between two kinds of things and the ways to state it and to ask for it."""

    source: str
    target: str
    noun: str
    asks: tuple[str, ...]
    facts: tuple[str, ...]
    held_out: str


NOUNS = listed(
    """
    teacher doctor rival partner emblem color pet boss captain coach lawyer neighbor cousin brother sister
    uncle aunt friend guide cook driver manager editor agent student hero anthem flower tree song language
    coin club team school port museum tower bridge market chief king queen judge translator producer
    designer inventor sponsor supplier customer origin hobby instrument dish prize tutor heir ally leader
    painter singer builder keeper nickname motto
    """
)
R = Relation
RELATIONS = {
    "born": R("person", "city", "birthplace", ("Where was {s} born?", "In which city was {s} born?"),
              ("{s} was born in {o}.", "{s} grew up in {o}.", "The birthplace of {s} is {o}."), "{s} comes from {o}."),
    "lives": R("person", "city", "home", ("Where does {s} live?", "Which city is the home of {s}?"),
               ("{s} lives in {o}.", "{s} moved to {o}.", "{s} has a home in {o}."), "{s} settled in {o}."),
    "mother": R("person", "person", "mother", ("Who is the mother of {s}?",),
                ("{s} is the child of {o}.", "The mother of {s} is {o}.", "{o} is the mother of {s}."),
                "{s} was raised by {o}."),
    "spouse": R("person", "person", "spouse", ("Who married {s}?", "Who is {s} married to?"),
                ("{s} married {o}.", "{s} is the spouse of {o}.", "{s} is married to {o}."), "{s} wed {o}."),
    "employer": R("person", "company", "employer", ("Who employs {s}?", "Where does {s} work?"),
                  ("{s} works for {o}.", "{s} was hired by {o}.", "{s} has a job at {o}."), "{s} is employed by {o}."),
    "author": R("work", "person", "author", ("Who wrote {s}?", "Who is the author of {s}?"),
                ("{s} was written by {o}.", "{s} is a book by {o}.", "{o} wrote {s}."), "{s} is a novel of {o}."),
    "director": R("work", "person", "director", ("Who directed {s}?", "Who made {s}?"),
                  ("{s} was directed by {o}.", "{s} is a film made by {o}.", "The director of {s} is {o}."),
                  "{s} was filmed by {o}."),
    "founder": R("company", "person", "founder", ("Who founded {s}?", "Who started {s}?"),
                 ("{s} was founded by {o}.", "{s} was started by {o}.", "{o} founded {s}."), "{s} was set up by {o}."),
    "seat": R("company", "city", "seat", ("Where is {s} based?", "In which city is {s} based?"),
              ("{s} is based in {o}.", "{s} has its office in {o}.", "The seat of {s} is {o}."),
              "{s} is run from {o}."),
    "capital": R("country", "city", "capital", ("Which city is the capital of {s}?", "From where is {s} ruled?"),
                 ("The capital of {s} is {o}.", "{s} is ruled from {o}.", "{o} is the capital of {s}."),
                 "{s} has its government in {o}."),
    "country": R("city", "country", "country", ("In which country is {s}?", "Which country is {s} in?"),
                 ("{s} is a city in {o}.", "{s} lies in {o}.", "{s} belongs to {o}."), "{s} is a town of {o}."),
    "river": R("city", "river", "river", ("Which river flows through {s}?", "On which river is {s}?"),
               ("{s} stands on the {o}.", "The {o} flows through {s}.", "{s} is a city on the {o}."),
               "{s} was built along the {o}."),
    "mayor": R("city", "person", "mayor", ("Who leads {s}?", "Who is the mayor of {s}?"),
               ("The mayor of {s} is {o}.", "{s} is led by {o}.", "{o} leads {s}."), "{s} elected {o}."),
    "owner": R("work", "company", "owner", ("Who owns {s}?", "Which company owns {s}?"),
               ("{s} is owned by {o}.", "{s} was sold to {o}.", "{o} owns {s}."), "{s} is the property of {o}."),
}  # fmt: skip
HELD_OUT_PAIRS = {
    ("author", "born"), ("director", "lives"), ("founder", "born"), ("founder", "spouse"), ("seat", "country"),
    ("director", "mother"),
}  # fmt: skip
PAIRS = [
    (a, b)
    for a, first in RELATIONS.items()
    for b, second in RELATIONS.items()
    if a != b and first.target == second.source
]
UNKNOWN = [
    "{s} {v}s {o}.", "{s} was {v}ed in {o}.", "{s} {v}s with {o}.", "The {v} of {s} is {o}.", "{s} has {o} to {v}.",
]  # fmt: skip
"""Facts told by an unknown word: whatever it means, they tie two things."""
UNNAMED = [
    "{o} is its {r}.", "The {r} here is {o}.", "It has {o} as {r}.", "{o} became its {r}.", "The present {r} is {o}.",
    "As {r} one finds {o}.", "It got {o} for a {r}.",
]  # fmt: skip
"""Facts about the thing that the page's title names."""
QUERY_FIELDS = ["search_query", "search_query", "query", "query", "lookup", "search", "topic"]
QUERY_TASKS = [
    "Write a search query for the next hop.", "Given the question, give a search query.", "Find what to look up.",
    "Produce the query.", "Generate a search query that helps answer the question.", "Name the page to look up next.",
    "What should be searched next?", "Write the query that finds the next passage.", "Say what to search for.",
]  # fmt: skip
ANSWER_TASKS = [
    "Answer the question from the passages.", "Use the context to answer.",
    "Read the passages and answer the question.",
    "Answer questions with short answers.", "Find the answer in the context.", "Give a short answer.",
    "Answer the question using only the facts given.", "Look in the passages for the answer.",
]  # fmt: skip


def thing(rng: Random, kind: str, held_out: bool, easy: bool = False) -> str:
    """The name of an invented person, city, country, river, company or work; the ``easy`` ones are one common word."""
    if easy:
        return rng.choice(FIRST_NAMES if kind == "person" else COMMON)
    if kind == "person":
        if rng.random() < 0.3:
            return f"{first_name(rng, held_out)} {proper_name(rng, held_out, 1)}"
        return proper_name(rng, held_out, 2 if rng.random() < 0.7 else 1)
    if kind == "work" and rng.random() < 0.4:
        return "The " + proper_name(rng, held_out)
    return proper_name(rng, held_out, 1 if rng.random() < 0.65 else 2)


def state(rng: Random, relation: Relation, source: str, target: str, unseen: bool) -> str:
    """A sentence that states the relation, now and then by a verb that no dictionary has."""
    told = relation.held_out if unseen else rng.choice(relation.facts)
    if not unseen and rng.random() < 0.15:
        told = rng.choice(UNKNOWN).format(v=invented(rng, 1, 2), s="{s}", o="{o}")
    return told.format(s=source, o=target)


def plain_relation(noun: str, source: str, target: str) -> Relation:
    """A relation that is told by its noun alone, so that any noun can be one."""
    asks = (
        f"Who is the {noun} of {{s}}?",
        f"Who is {{s}}'s {noun}?",
        f"Name the {noun} of {{s}}.",
        f"Which is the {noun} of {{s}}?",
    )
    facts = (
        f"The {noun} of {{s}} is {{o}}.", f"{{s}} has {{o}} as {noun}.", f"{{o}} is the {noun} of {{s}}.",
        f"{{s}}'s {noun} is {{o}}.", f"{{s}} has a {noun} called {{o}}.", f"{{o}} became the {noun} of {{s}}.",
    )  # fmt: skip
    return Relation(source, target, noun, asks, facts, f"For {{s}} the {noun} is {{o}}.")


@dataclass(frozen=True)
class Chain:
    """Two facts in a row: the source, what ties it to the middle, and what ties that to the end."""

    first: Relation
    second: Relation
    source: str
    middle: str
    end: str
    fact: str
    next_fact: str


def chain(rng: Random, held_out: bool, unseen: bool, easy: bool = False) -> Chain:
    """Two relations that fit together, about new things: ``held_out`` names, ``unseen`` pairs and sentences."""
    a, b = rng.choice([pair for pair in PAIRS if (pair in HELD_OUT_PAIRS) == unseen])
    first, second = RELATIONS[a], RELATIONS[b]
    if not unseen and rng.random() < 0.4:
        nouns = rng.sample(NOUNS, 2)
        first = plain_relation(nouns[0], first.source, first.target)
        if rng.random() < 0.7:
            second = plain_relation(nouns[1], second.source, second.target)
    kinds = (first.source, first.target, second.target)
    source, middle, end = (thing(rng, kind, held_out, easy) for kind in kinds)
    return Chain(
        first,
        second,
        source,
        middle,
        end,
        state(rng, first, source, middle, unseen),
        state(rng, second, middle, end, unseen),
    )


def ask_one(rng: Random, link: Chain) -> str:
    """A question that the first fact answers."""
    return rng.choice([*link.first.asks, f"What is the {link.first.noun} of {{s}}?"]).format(s=link.source)


def ask_two(rng: Random, link: Chain) -> str:
    """A question that needs both facts."""
    middle = rng.choice([f"the {link.first.noun} of {link.source}"] * 4 + [f"{link.source}'s {link.first.noun}"])
    return rng.choice([*link.second.asks, f"What is the {link.second.noun} of {{s}}?"]).format(s=middle)


def passages(
    rng: Random,
    turns: int,
    *,
    held_out: bool = False,
    unseen: bool | None = None,
    task: str | None = None,
    easy: bool = False,
) -> Episode:
    """Questions over passages (``one``, ``two`` facts) or queries before (``first``) and after (``next``) one.

    ``held_out`` names come with ``unseen`` sentences and pairs of relations unless that is said to be false; ``easy``
    names are one common word each.
    """
    unseen = held_out if unseen is None else unseen
    kind = task or rng.choice(["one", "one", "two", "first", "next", "either"])
    asking = kind in ("first", "next", "either")
    question = "question" if held_out else rng.choice(["question"] * 6 + ["query_text", "ask", "q"])
    context = "context" if held_out else rng.choice(["context"] * 4 + ["passages", "facts", "documents"])
    reply = rng.choice(QUERY_FIELDS) if asking else rng.choice(["answer"] * 5 + ["result", "reply"])
    reasoning = not easy and rng.random() < (0.15 if asking else 0.35)
    style = rng.choice(["{s} | {f}", "{s}: {f}", "{f}", "{f}", "{s} - {f}"])
    wording = rng.choice(["{s}", "{s}", "{s}", "{s} {r}", "{r} of {s}"])
    context_first = rng.random() < 0.7
    listed = rng.random() < 0.8
    distractors = rng.choice([0, 1, 1, 2, 2, 3]) if held_out else rng.choice([0, 1, 2, 2, 3, 3])
    shuffled = rng.random() < 0.7

    unnamed = not unseen and "{s}" in style and rng.random() < 0.4

    def page(subject: str, fact: str, relation: Relation, target: str) -> str:
        if unnamed and rng.random() < 0.7:
            fact = rng.choice(UNNAMED).format(r=relation.noun, o=target)
        return style.format(s=subject, f=fact)

    def noise(link: Chain, count: int) -> list[str]:
        """Pages about other things, some of which are tied by the same relation."""
        found = []
        for _ in range(count):
            relation = rng.choice([link.first, link.second])
            if rng.random() < 0.6:
                relation = chain(rng, held_out, unseen).first
            source, target = (thing(rng, kind, held_out, easy) for kind in (relation.source, relation.target))
            found.append(page(source, state(rng, relation, source, target, unseen), relation, target))
        return found

    built = []
    for _ in range(turns):
        link = chain(rng, held_out, unseen, easy)
        now = rng.choice(["first", "next"]) if kind == "either" else kind
        why = link.fact
        if now == "one":
            pages, ask, result = (
                [page(link.source, link.fact, link.first, link.middle), *noise(link, distractors)],
                ask_one(rng, link),
                link.middle,
            )
        elif now == "two":
            pages = [
                page(link.source, link.fact, link.first, link.middle),
                page(link.middle, link.next_fact, link.second, link.end),
                *noise(link, min(distractors, 2)),
            ]
            ask, result, why = ask_two(rng, link), link.end, f"{link.fact} {link.next_fact}"
        elif now == "first":
            pages, ask = [], ask_two(rng, link)
            result = wording.format(s=link.source, r=link.first.noun)
            why = f"First find the {link.first.noun} of {link.source}."
        else:
            pages = [page(link.source, link.fact, link.first, link.middle), *noise(link, min(distractors, 2))]
            ask = ask_two(rng, link)
            result = wording.format(s=link.middle, r=link.second.noun)
        if shuffled:
            rng.shuffle(pages)
        shown: Value = tuple(pages) if listed else " ".join(pages) or "none"
        inputs: list[tuple[str, Value]] = [(context, shown), (question, ask)]
        if kind == "first" and rng.random() < 0.5:
            del inputs[0]
        elif not context_first:
            inputs.reverse()
        outputs: list[tuple[str, Value]] = [(reply, result)]
        if reasoning:
            outputs.insert(0, ("reasoning", why))
        built.append(Turn(tuple(inputs), tuple(outputs)))
    fields = ((REASON,) if reasoning else ()) + ((reply, "text"),)
    name = "query" if asking else "answers"
    return Episode(name, rng.choice(QUERY_TASKS if asking else ANSWER_TASKS), fields, tuple(built))
