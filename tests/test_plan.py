"""The dry run: bounds that hold, rehearsals that call no LM, and what the user sees."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from datetime import date, datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel
from pydantic import Field as Limits

import harness.lm.prices
import harness.store
from harness import module
from harness.data import Example
from harness.errors import UsageError
from harness.lm.budget import Price
from harness.lm.request import LMRef
from harness.optimize.plan import CallShape, RunShape, SuitePlan, Work, plan_suite
from harness.optimize.rehearse import rehearse
from harness.optimize.settings import settings_from
from harness.optimize.strategy import PAPER_STRATEGIES, parse_strategies
from harness.report.plan import plan_tables
from harness.report.table import render
from harness.train.job import LoraSettings
from tests.simulated import CONFTEST, LOG, SUITE, events

SIZES = {"train": 1000, "validation": 500, "test": 1319}


def planned(strategies: str = PAPER_STRATEGIES, calls: int = 1, **changes: Any) -> SuitePlan:
    plan = SuitePlan("s", "x/lm", sizes=SIZES, searched=(100, 250), seeds=(0,))
    run = RunShape(tuple(CallShape(f"m{number}", 100, 40) for number in range(calls)))
    settings = settings_from("paper", changes)
    return plan_suite(plan, parse_strategies(strategies), settings, run, lambda _: Price(1e-6, 2e-6))


def edges(plan: SuitePlan) -> dict[str, tuple[int, int, int]]:
    return {
        edge.name: (edge.step.calls, edge.scoring.calls, edge.step.training_examples)
        for edge in plan.edges
        if edge.step is not None
    }


# ---- bounds


def test_each_edge_of_the_prefix_tree_is_planned_once() -> None:
    p, w = 100 + 7 * 250, 1000
    scoring = 500 + 1319
    assert edges(planned()) == {
        "vanilla": (0, scoring, 0),
        "p": (p, scoring, 0),
        "w": (w, scoring, 1000),
        "p -> p": (p, scoring, 0),
        "w -> w": (w, scoring, 1000),
        "p -> w": (w, scoring, 1000),
        "w -> p": (p, scoring, 0),
        "p -> w -> p": (p, scoring, 0),
    }


def test_steps_on_the_way_are_taken_but_not_scored() -> None:
    found = edges(planned("p -> w -> p"))
    assert list(found) == ["vanilla", "p", "p -> w", "p -> w -> p"]
    assert [scoring for _, scoring, _ in found.values()] == [1819, 0, 0, 1819]


def test_bounds_grow_with_calls_tries_and_seeds() -> None:
    assert edges(planned("w", calls=3, rollouts=4))["w"] == (12_000, 5457, 3000)
    one = planned("p, w", calls=2)
    plan = SuitePlan("s", "x/lm", sizes=SIZES, searched=(100, 250), seeds=(0, 1, 2))
    three = plan_suite(
        plan,
        parse_strategies("p, w"),
        settings_from("paper"),
        RunShape((CallShape("a", 100, 40), CallShape("b", 100, 40))),
        lambda _: Price(1e-6, 2e-6),
    )
    assert replace(three.total, cost=None) == replace(one.total * 3, cost=None)
    assert three.total.cost == pytest.approx(3 * (one.total.cost or 0.0))


def test_tokens_and_cost_are_those_of_the_calls() -> None:
    vanilla = planned("vanilla").total
    assert (vanilla.prompt_tokens, vanilla.completion_tokens) == (181_900, 1819 * 1024)
    assert vanilla.cost == pytest.approx(0.1819 + 2e-6 * 1819 * 1024)
    scored = next(edge.scoring for edge in planned("p").edges if edge.name == "p")
    assert scored.prompt_tokens == 1819 * (100 + 3 * 40)  # with three demos


def test_a_teacher_is_paid_for_the_traces() -> None:
    plan = SuitePlan("s", "x/lm", teacher="y/teacher", sizes=SIZES, searched=(100, 250), seeds=(0,))
    prices = {"x/lm": Price(), "y/teacher": Price(0.0, 1.0)}
    made = plan_suite(
        plan, parse_strategies("w"), settings_from("paper"), RunShape((CallShape("m", 1, 1),)), prices.get
    )
    assert made.total.cost == 1000 * 1024
    made = plan_suite(
        plan, parse_strategies("w"), settings_from("paper"), RunShape((CallShape("m", 1, 1),)), {"x/lm": Price()}.get
    )
    assert made.total.cost is None


def test_the_paper_preset_is_the_papers() -> None:
    paper = settings_from("paper")
    assert (paper.candidates, paper.demos, paper.rollouts, paper.passing) == (6, 3, 1, 1.0)
    assert (paper.prompt_train, paper.prompt_validation) == (100, 250)
    assert (paper.temperature, paper.top_p, paper.max_tokens) == (0.1, 0.97, 1024)
    lora = paper.lora
    assert isinstance(lora, LoraSettings)
    assert (lora.rank, lora.alpha, lora.dropout, lora.target_modules) == (32, 64, 0.0, ("q_proj", "k_proj"))
    assert (lora.learning_rate, lora.epochs, lora.batch_size) == (1e-5, 5, 8)


# ---- rehearsal


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Report(BaseModel):
    title: str
    points: Annotated[int, Limits(ge=3)]


@dataclass
class Found:
    color: Color
    share: Annotated[float, Limits(gt=0.5)]
    kind: Literal["x", "y"]
    tags: Annotated[list[str], Limits(min_length=2)]
    pair: tuple[int, bool]
    name: Annotated[str, Limits(min_length=9)]
    reports: list[Report] | None
    report: Report


@module(reasoning=True)
def ask(text: str) -> Found:
    """Find all that."""


@module
def more(text: str) -> bool:
    """Say whether there is more."""


EXAMPLES = [Example({"text": "word " * number}) for number in (1, 400, 2, 9999)]


def test_a_rehearsal_counts_calls_and_measures_prompts() -> None:
    def program(text: str) -> Found:
        more(text=text)
        found = ask(text=text)
        assert found.color is Color.RED
        assert found.report.points == 3
        return found

    run = rehearse(program, EXAMPLES, "x/lm")
    assert [call.module for call in run.calls] == ["more", "ask"]
    assert not run.note
    assert 500 < run.calls[0].prompt_tokens < 560  # the longest of the first three examples, 2,000 characters
    assert run.calls[1].demo_tokens > run.calls[0].demo_tokens + 100  # a demo shows its reasoning


def test_a_rehearsal_of_async_programs_and_single_modules() -> None:
    @module
    async def think(text: str) -> int:
        """Think."""

    async def program(text: str) -> int:
        return sum(await asyncio.gather(think(text=text), think(text=text + "!")))

    assert len(rehearse(program, EXAMPLES, "x/lm").calls) == 2
    assert len(rehearse(more, EXAMPLES, "x/lm").calls) == 1


def test_a_program_that_goes_on_or_breaks_is_noted() -> None:
    def endless(text: str) -> None:
        number = 0
        while not more(text=f"{text}{number}"):
            number += 1

    def fragile(text: str) -> str:
        return {"known": text}[str(more(text=text))]

    run = rehearse(endless, EXAMPLES, "x/lm")
    assert len(run.calls) >= 200
    assert "200 calls or more" in run.note
    run = rehearse(fragile, EXAMPLES, "x/lm")
    assert len(run.calls) == 1
    assert "ends early (KeyError)" in run.note


class Node(BaseModel):
    name: str
    next: Node | None


@dataclass
class Span:
    first: int
    last: int

    def __post_init__(self) -> None:
        assert self.first < self.last


@pytest.mark.parametrize(
    ("annotation", "works"),
    [
        (date, True),
        (datetime, True),
        (UUID, True),
        (Annotated[int, Limits(le=-3)], True),
        (Annotated[float, Limits(lt=0)], True),
        (Annotated[str, Limits(pattern="^[A-Z]{3}$")], False),
        (Annotated[int, Limits(multiple_of=7, ge=1)], False),
        (Node, False),
        (Span, False),
    ],
)
def test_types_whose_values_cannot_be_made_up_are_noted(annotation: Any, works: bool) -> None:
    def typed(text: str) -> Any: ...

    typed.__annotations__["return"] = annotation
    ask_typed = module(typed)

    def program(text: str) -> bool:
        ask_typed(text=text)
        return more(text=text)

    run = rehearse(program, EXAMPLES, "x/lm")
    assert [call.module for call in run.calls] == ["typed", "more"][: 1 + works]
    assert ("ends early (ParseError)" in run.note) != works


# ---- what the user sees


def unknown(lm: LMRef) -> Price:
    raise UsageError(f"nobody knows the price of {lm.model}")


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv(LOG, str(pytester.path / "events.jsonl"))
    monkeypatch.delenv("BT_LM", raising=False)
    monkeypatch.setattr(harness.lm.prices, "prices", lambda _: unknown)
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_parity=SUITE.replace("THRESHOLD", "0.5"))
    pytester.makeini("[pytest]\nbt_lm = sim/plain\n")
    return pytester


def test_a_dry_run_shows_the_plan_and_runs_nothing(project: pytest.Pytester) -> None:
    project.makepyfile(test_other="def test_ordinary(): raise AssertionError('was run')")
    result = project.runpytest("--bt-dry-run", "--bt-seeds", "0,1")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "parity?*sim/plain*seeds 0, 1",
            "30 training, 20 validation, 25 test*12 +*",
            "p ? w ? p *",
            "total*",
            "*plan of*",
        ]
    )
    result.stdout.fnmatch_lines(["*no tests ran*"])
    assert not events(project.path / "events.jsonl", "call")
    assert not (project.path / ".bt").exists()


def test_the_run_stays_within_the_plan(project: pytest.Pytester) -> None:
    options = ["--bt-strategies", "p, w, p -> w -> p"]
    dry = project.runpytest("--bt-dry-run", *options).stdout.str().splitlines()
    total = next(line.split() for line in dry if line.startswith("total"))
    steps, scoring = int(total[1].replace(",", "")), int(total[2].replace(",", ""))
    project.runpytest("--bt-optimize", "--bt-json", "out.json", *options)
    (suite,) = json.loads((project.path / "out.json").read_text())["suites"]
    assert 0 < suite["spend"]["calls"] <= steps + scoring
    trained = [event["examples"] for event in events(project.path / "events.jsonl", "training")]
    assert 0 < sum(map(len, trained)) <= int(total[5])


def test_suites_that_would_be_skipped_say_why(project: pytest.Pytester) -> None:
    text = SUITE.replace("threshold=THRESHOLD", "threshold=None, needs='a bigger LM'")
    missing = (
        SUITE.replace("test_parity", "test_missing")
        .replace("threshold=THRESHOLD, ", "")
        .replace('return {"train"', 'raise DataMissingError("no rows here"); return {"train"')
    )
    project.makepyfile(test_parity=text, test_missing="from harness.errors import DataMissingError\n" + missing)
    result = project.runpytest("--bt-dry-run", "--bt-lm", "local/nano")
    assert result.ret == 0
    result.stdout.fnmatch_lines_random(
        ["skipped: no rows here", "skipped: needs a bigger LM, which local/nano is not*", "Nothing was run*"]
    )
    everything = project.runpytest("--bt-dry-run", "--bt-lm", "local/nano", "--bt-all")
    everything.stdout.fnmatch_lines(["p ? w ? p *"])


def test_errors_of_collection_and_data_are_errors_of_the_dry_run(project: pytest.Pytester) -> None:
    project.makepyfile(test_broken="import nothing_of_this_name")
    assert project.runpytest("--bt-dry-run").ret == pytest.ExitCode.INTERRUPTED
    (project.path / "test_broken.py").unlink()
    project.makepyfile(test_parity=SUITE.replace("threshold=THRESHOLD, ", "").replace("rows(100, 20)", "[]"))
    result = project.runpytest("--bt-dry-run")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*DataError: suite 'parity': the split 'validation' is empty*"])


def test_workers_are_refused(project: pytest.Pytester) -> None:
    result = project.runpytest("--bt-dry-run", "-n", "2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--bt-dry-run makes one plan in one process; add -n 0.*"])


def test_a_price_is_shown_where_it_is_known(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.lm.prices, "prices", lambda _: lambda _: Price(1e-6, 1e-5))
    project.runpytest("--bt-dry-run").stdout.fnmatch_lines(["*cost ?", "total*$*"])


def test_names_steer_nothing() -> None:
    plan = SuitePlan("[red]s[/red]\x1b[31m", "x/[b]lm", skipped="no\x07 data\n[link]")
    text = render(plan_tables([plan]), width=80, color=False)
    assert "[red]s[/red]" in text
    assert "\x1b" not in text
    assert "\x07" not in text


def test_work_adds_up() -> None:
    work = Work(1, 2, 3, 4, 0.5)
    assert work + work == work * 2 == Work(2, 4, 6, 8, 1.0)
    assert (work + Work(cost=None)).cost is None


# ---- several seeds


def test_several_seeds_are_judged_by_their_mean(project: pytest.Pytester, tmp_path: Path) -> None:
    text = SUITE.replace("THRESHOLD", "0.99").replace("prompt_train=12", "temperature=0.5, prompt_train=12")
    project.makepyfile(test_parity=text)
    out = tmp_path / "out.json"
    result = project.runpytest("--bt-optimize", "--bt-strategies", "p", "--bt-seeds", "0,1,2", f"--bt-json={out}")
    result.assert_outcomes(passed=2, failed=1)
    (suite,) = json.loads(out.read_text())["suites"]
    p = next(row for row in suite["strategies"] if row["strategy"] == "p")
    means = [sum(e["score"] for e in r["test"]["examples"]) / 25 for r in p["results"]]
    assert len(set(means)) > 1  # at a temperature above 0 seeds are further samples
    mean = 100 * sum(means) / 3
    words = f"{mean:.1f} % on test (mean of 3 seeds, 95 % interval *n = 25), under the threshold of 99.0 %"
    result.stdout.fnmatch_lines([f"parity ?p? scores {words}"])
    result.stdout.fnmatch_lines(["*seeds 0, 1, 2*", f"p*{mean:.1f} ± *"])


def test_a_gate_that_one_seed_passes_fails_by_the_mean(project: pytest.Pytester, tmp_path: Path) -> None:
    temperature = "temperature=0.5, prompt_train=12"
    base = SUITE.replace("prompt_train=12", temperature)
    project.makepyfile(test_parity=base.replace("THRESHOLD", "0"))
    out = tmp_path / "out.json"
    options = ["--bt-optimize", "--bt-strategies", "p", "--bt-seeds", "0,1,2", f"--bt-json={out}"]
    project.runpytest(*options).assert_outcomes(passed=3)
    (suite,) = json.loads(out.read_text())["suites"]
    p = next(row for row in suite["strategies"] if row["strategy"] == "p")
    means = [sum(e["score"] for e in r["test"]["examples"]) / 25 for r in p["results"]]
    between = (max(means) + sum(means) / 3) / 2  # above the mean over seeds, under the best seed
    project.makepyfile(test_parity=base.replace("THRESHOLD", f"{between:.4f}"))
    result = project.runpytest(*options)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.no_fnmatch_line("*not under the threshold*")
