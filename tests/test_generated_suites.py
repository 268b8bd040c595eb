"""Data drawn from Hypothesis strategies; the two generated suites: right labels, nothing the embedded LM has seen."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import strategies as st

from harness import drawn
from harness.data import Example, load_splits
from harness.draws import Drawn
from harness.errors import DataError
from harness.suites import suite_of
from programs.two_hop import answer_two_hop, lookup
from recipes.nano import arithmetic as seen_arithmetic
from recipes.nano import passages as seen_passages
from recipes.nano import words as seen_words
from recipes.nano.episode import messages
from suites import test_arithmetic as arithmetic
from suites import test_two_hop as two_hop

ROOT = Path(__file__).parent.parent


@st.composite
def pairs(draw: st.DrawFn) -> dict[str, Any]:
    first, second = draw(st.integers(1, 500)), draw(st.integers(1, 500).filter(lambda n: n % 2))
    words = draw(st.lists(st.text(max_size=4), max_size=3))
    return {"a": first, "b": second, "word": draw(st.sampled_from("xyz")), "words": words, "f": draw(st.floats(0, 1))}


# ---- drawing


def test_draws_are_those_of_the_seed() -> None:
    once = load_splits(drawn(pairs(), train=40, validation=20, test=20, seed=3), "s")
    assert load_splits(drawn(pairs(), train=40, validation=20, test=20, seed=3), "s").digest == once.digest
    assert load_splits(drawn(pairs(), train=40, validation=20, test=20, seed=4), "s").digest != once.digest
    longer = load_splits(drawn(pairs(), train=60, validation=30, test=20, seed=3), "s")
    assert {row.digest for row in once.train} < {row.digest for row in longer.train}


@pytest.mark.parametrize("seed", [0, 1, 10**9])
def test_no_example_comes_twice_whatever_the_seed(seed: int) -> None:
    splits = drawn(pairs(), train=30, validation=15, test=15, seed=seed)()
    assert [len(rows) for rows in splits.values()] == [30, 15, 15]
    assert len({row.digest for rows in splits.values() for row in rows}) == 60


def test_a_field_may_have_to_be_unique() -> None:
    splits = drawn(pairs(), train=200, validation=50, test=50, unique="a")()
    assert len({row["a"] for rows in splits.values() for row in rows}) == 300


def test_draws_are_spread_over_what_the_strategy_allows() -> None:
    strategy = st.fixed_dictionaries({"n": st.integers(0, 9), "key": st.integers(), "yes": st.booleans()})
    rows = drawn(strategy, train=1000, validation=1, test=1)()["train"]
    for field, expected in (("n", 100), ("yes", 500)):
        counts = Counter(row[field] for row in rows)
        assert all(0.6 * expected < count < 1.4 * expected for count in counts.values()), counts


@pytest.mark.parametrize(
    "strategy",
    [
        st.builds(dict, a=st.floats(), b=st.binary(max_size=3).map(list)),
        st.builds(dict, a=st.floats(min_value=2e9), b=st.integers(min_value=10**20)),
        st.builds(dict, a=st.floats(max_value=-5e7, allow_nan=False), b=st.integers(max_value=3)),
        st.builds(dict, a=st.decimals(0, 1).map(str), b=st.dates().map(str)),
        st.builds(dict, a=st.from_regex("[a-z]{3,8}", fullmatch=True), b=st.text("αβγδε", min_size=4)),
        st.builds(dict, a=st.recursive(st.integers(), st.lists), b=st.permutations(range(6))),
    ],
)
def test_any_strategy_of_rows_can_be_drawn(strategy: st.SearchStrategy[dict[str, Any]]) -> None:
    assert len(drawn(strategy, train=20, validation=5, test=5)()["train"]) == 20


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (st.fixed_dictionaries({"n": st.integers(0, 9)}), "gave 10 different examples.*'validation'.*wants 2 more"),
        (st.just({"n": 1}), "let the strategy vary more"),
        (st.integers(), "gave int, not a mapping"),
        (st.fixed_dictionaries({"n": st.integers().filter(lambda _: False)}), "cannot draw from the strategy"),
        (st.nothing(), "cannot draw from the strategy|vary more"),
    ],
)
def test_a_strategy_that_gives_too_little_is_refused(strategy: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        drawn(strategy, train=6, validation=6, test=2)()


def test_sizes_and_bare_strategies_are_checked() -> None:
    with pytest.raises(DataError, match="'test' has the size 0"):
        drawn(pairs(), train=1, validation=1, test=0)
    with pytest.raises(DataError, match=r"harness.drawn\(strategy"):
        load_splits(pairs(), "s")


SCRIPT = """
from hypothesis import settings
settings.register_profile("other", max_examples=3, derandomize=True)
settings.load_profile("other")
from harness.data import load_splits
from suites import test_arithmetic, test_two_hop
for suite in (test_arithmetic.test_arithmetic, test_two_hop.test_two_hop):
    print(load_splits(suite.__bt_suite__.data, "s").digest)
"""


def test_processes_hash_seeds_and_profiles_change_nothing() -> None:
    here = [load_splits(data(suite), "s").digest for suite in (arithmetic.test_arithmetic, two_hop.test_two_hop)]
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == here


# ---- labels


def data(function: Any) -> Drawn:
    suite = suite_of(function)
    assert suite is not None
    assert isinstance(suite.data, Drawn)
    return suite.data


def rows(function: Any) -> list[Example]:
    return [row for split in data(function)().values() for row in split]


def test_stories_add_up() -> None:
    for row in rows(arithmetic.test_arithmetic):
        count, *changes = re.split(r"(?<=\.) ", row.question.rpartition(". ")[0] + ".")
        total = _number(count)
        for sentence in changes:
            gained, lost = (_told(sentence, templates) for templates in (arithmetic.GAINS, arithmetic.LOSSES))
            assert gained != lost
            total += _number(sentence) if gained else -_number(sentence)
        assert total == row.number > 0


def _number(sentence: str) -> int:
    (found,) = re.findall(r"\d+", sentence)
    return int(found)


def _told(sentence: str, templates: Iterable[str]) -> bool:
    return any(re.fullmatch(_pattern(template), sentence) for template in templates)


def _pattern(template: str) -> str:
    return re.sub(r"\\{\w+\\}", r"[\\w ]+", re.escape(template))


def test_questions_are_answered_by_two_pages() -> None:
    for row in rows(two_hop.test_two_hop):
        (work,) = re.findall(r"of (\w+(?: [A-Z]\w+)?) (?:call|return)", row.question)
        (first,) = [page for page in row.pages if page.startswith(f"{work} | ")]
        ((person, second),) = [
            (title, page)
            for page in row.pages
            for title in [page.partition(" | ")[0]]
            if title in first.partition(" | ")[2] and page != first
        ]
        assert row.place in second
        assert sum(row.place in page for page in row.pages) == 1
        assert lookup(work, row.pages, 1) == [first]
        assert lookup(person, row.pages, 1) == [second]
        nouns = [noun for noun in two_hop.PERSONS if noun in row.question]
        assert nouns == [noun for noun in two_hop.PERSONS if noun in first]


def test_the_program_asks_twice_and_then_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    row = rows(two_hop.test_two_hop)[0]
    (work,) = re.findall(r"of (\w+) (?:call|return)", row.question)
    seen: list[list[str]] = []

    def query(context: list[str], question: str) -> str:
        assert question == row.question
        seen.append(list(context))
        return context[0].rpartition(" | ")[2] if context else work

    monkeypatch.setattr("programs.two_hop.find_next", query)
    monkeypatch.setattr("programs.two_hop.read_answer", lambda context, question: f"{len(context)} {question}")
    assert answer_two_hop(row.question, row.pages) == f"2 {row.question}"
    assert [len(context) for context in seen] == [0, 1]


@pytest.mark.parametrize("suite", [arithmetic.test_arithmetic, two_hop.test_two_hop])
def test_no_question_comes_twice(suite: Callable[..., Any]) -> None:
    questions = [row.question for row in rows(suite)]
    assert len(questions) == len(set(questions))


# ---- contamination


def test_names_and_things_of_the_stories_are_new() -> None:
    known = {*seen_words.FIRST_NAMES, *seen_words.HELD_OUT_FIRST_NAMES}
    known |= {*seen_arithmetic.OBJECTS, *seen_arithmetic.HELD_OUT_OBJECTS}
    assert not known & {*arithmetic.NAMES, *arithmetic.THINGS}


def test_numbers_of_the_stories_are_new() -> None:
    starts = [_number(row.question.partition(". ")[0]) for row in rows(arithmetic.test_arithmetic)]
    assert min(starts) > 60
    rng = Random(5)
    problems = [seen_arithmetic.problem(rng, rng.randint(1, 3)) for _ in range(3000)]
    stories = [p for p in problems if " - " in p.reasoning or " + " in p.reasoning]
    first = [int(p.reasoning.split()[0]) for p in stories if p.reasoning.split()[1] in "+-"]
    assert max(first) <= 60


def test_templates_of_the_stories_are_new() -> None:
    known = [*seen_arithmetic.STARTS, *seen_arithmetic.PLUS, *seen_arithmetic.MINUS, *seen_arithmetic.TIMES]
    known += [*seen_arithmetic.DIVIDE, *seen_arithmetic.RATES, *seen_arithmetic.SUMS, *seen_arithmetic.ASKS]
    known += [*seen_arithmetic.SHARE_ASKS, *seen_arithmetic.TOLD]
    known += [text for texts in seen_arithmetic.HELD_OUT.values() for text in texts]
    ours = [*arithmetic.OPENINGS, *arithmetic.GAINS, *arithmetic.LOSSES, *arithmetic.QUESTIONS]
    assert not {_bare(text) for text in known} & {_bare(text) for text in ours}


def test_names_of_the_questions_cannot_have_been_invented_before() -> None:
    kept = tuple(start.capitalize() for start in seen_words.HELD_OUT_BEGINNINGS)
    ours = tuple(two_hop.BEGINNINGS)
    assert all(start.startswith(kept) for start in ours)
    rng = Random(3)
    seen = [seen_words.proper_name(rng) for _ in range(5000)] + [seen_words.first_name(rng) for _ in range(2000)]
    assert not any(word.startswith(ours) for name in seen for word in name.split())
    names = {first + last for first in two_hop.BEGINNINGS for last in two_hop.ENDINGS}
    known = {*seen_words.COMMON, *seen_words.HELD_OUT_COMMON, *seen_words.FUNCTION_WORDS}
    assert not {name.casefold() for name in names} & known


def test_relations_and_templates_of_the_questions_are_new() -> None:
    nouns = {*seen_passages.NOUNS, *(relation.noun for relation in seen_passages.RELATIONS.values())}
    assert not nouns & {*two_hop.PERSONS, *two_hop.PLACES}
    known = {_bare(text) for r in seen_passages.RELATIONS.values() for text in (*r.asks, *r.facts, r.held_out)}
    for noun in (*two_hop.PERSONS, *two_hop.PLACES):
        plain = seen_passages.plain_relation(noun, "person", "city")
        known |= {_bare(text) for text in (*plain.asks, *plain.facts, plain.held_out)}
        known |= {_bare(text.replace("{r}", noun)) for text in seen_passages.UNNAMED}
    ours = [text for texts in (*two_hop.PERSONS.values(), *two_hop.PLACES.values()) for text in texts]
    assert not known & {_bare(text) for text in (*ours, *two_hop.QUESTIONS)}


def test_no_sentence_of_ours_is_in_what_the_embedded_lm_learns_from() -> None:
    ours = {sentence for row in rows(arithmetic.test_arithmetic) for sentence in _sentences(row.question)}
    asked = [text for row in rows(two_hop.test_two_hop) for text in (row.question, *row.pages)]
    ours |= {part for text in asked for part in text.split(" | ") if " " in part}
    rng = Random(9)
    for _ in range(400):
        for episode in (seen_arithmetic.word_problems(rng, 3), seen_passages.passages(rng, 3)):
            text = "\n".join(message["content"] for message in messages(episode))
            assert not ours & set(_sentences(text))


def _sentences(text: str) -> Iterator[str]:
    return (part.strip() for part in re.split(r"(?<=[.?:])\s|\n|\|", text) if part.strip())


def _bare(template: str) -> str:
    """A template without its placeholders' names, case and end."""
    return re.sub(r"\{\w+\}", "_", template).casefold().strip(" .?")
