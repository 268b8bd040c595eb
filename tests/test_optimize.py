"""Strategies, settings and what the steps do, on plain values."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.data import Example
from harness.errors import UsageError
from harness.evaluate import Run
from harness.lm.request import Completion, LMRef, Request, Sampling
from harness.observe import NullObserver
from harness.optimize import prompts
from harness.optimize.bootstrap import bootstrap
from harness.optimize.prompts import Race, draw_demos, run_race
from harness.optimize.settings import PRESETS, Settings, as_json, settings_from
from harness.optimize.steps import STEPS, register
from harness.optimize.strategy import parse_strategies, parse_strategy, strategy_id, strategy_text
from harness.optimize.together import choose
from harness.optimize.weights import optimize_weights
from harness.results import Evaluation, ExampleScore, StepResult, StrategyResult
from harness.state import Demo, Prompt, State
from harness.trace import ModuleCall, Trace
from harness.train.job import Trained, TrainingResult
from tests.test_evaluate import ask

strategies = st.lists(st.sampled_from(["p", "w"]), max_size=6).map(tuple)


@given(strategies)
def test_every_spelling_of_a_strategy_is_the_same(strategy: tuple[str, ...]) -> None:
    for spelling in (strategy_id(strategy), strategy_text(strategy), strategy_text(strategy).replace("->", "→")):
        assert parse_strategy(spelling) == strategy


@pytest.mark.parametrize("text", ["", "p p", "q", "p ->", "-> p", "p -> vanilla", "P"])
def test_what_is_no_strategy_names_the_steps_there_are(text: str) -> None:
    with pytest.raises(UsageError, match="steps are p, w"):
        parse_strategy(text)


def test_vanilla_is_always_there_and_nothing_comes_twice() -> None:
    assert parse_strategies("p-w, p -> w, w") == ((), ("p", "w"), ("w",))


def test_the_papers_settings() -> None:
    paper = PRESETS["paper"]
    assert (paper.candidates, paper.demos, paper.rollouts, paper.temperature, paper.max_tokens) == (6, 3, 1, 0.1, 1024)
    lora = paper.lora
    assert (lora.rank, lora.alpha, lora.dropout, lora.learning_rate) == (32, 64, 0.0, 1e-5)
    assert (lora.epochs, lora.batch_size, lora.target_modules) == (5, 8, ("q_proj", "k_proj"))


def test_later_changes_win_and_text_is_read_as_options_give_it() -> None:
    made = settings_from("paper", {"candidates": 9, "rank": 4}, {"rank": "8", "target_modules": "q_proj, v_proj"})
    assert (made.candidates, made.lora.rank, made.lora.target_modules) == (9, 8, ("q_proj", "v_proj"))
    assert made.lora.alpha == 64


@pytest.mark.parametrize(
    "change",
    [
        *("passing=80", "passing=nan", "top_p=7", "top_p=-1", "top_p=0", "learning_rate=-0.1", "learning_rate=0"),
        *("learning_rate=inf", "temperature=nan", "temperature=-1", "rollout_temperature=inf", "epochs=inf"),
        *("epochs=-1", "warmup_ratio=50", "warmup_ratio=-0.1", "dropout=3", "dropout=1", "schedule=bogus"),
        *("schedule=reduce_lr_on_plateau", "rank=0", "candidates=-1", "batch_size=0", "max_tokens=0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: str) -> None:
    name, value = change.split("=")
    with pytest.raises(UsageError, match=f"the setting {name}='{value}' is not allowed: Input should be "):
        settings_from("default", {name: value})


@pytest.mark.parametrize("preset", PRESETS)
def test_the_presets_themselves_are_allowed(preset: str) -> None:
    values = as_json(PRESETS[preset])
    lora = values.pop("lora")
    assert settings_from("default", values, lora) == PRESETS[preset]
    assert settings_from(preset, {"learning_rate": None, "temperature": 0, "top_p": 1, "passing": "0"})


def test_steps_can_be_added_but_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STEPS, "x", STEPS["p"])
    assert parse_strategy("x -> p", STEPS) == ("x", "p")
    for name in ("p", "vanilla", "best", "a-b", ""):
        with pytest.raises(UsageError, match="cannot be named"):
            register(name, STEPS["p"])


@dataclass
class FakeEvaluator:
    """Scores come from a table: by instruction of the state and by example; runs are counted."""

    table: dict[str, list[float | None]]
    sampling: Sampling = Sampling()
    asked: list[tuple[str, int, int, float]] = field(default_factory=list)

    def run(
        self, state: State, examples: list[Example], *, sampling: Sampling | None = None, rollout: int = 0, **_: str
    ) -> list[Run]:
        name = state.prompt("m").instruction or ""
        used = sampling or self.sampling
        self.asked += [(name, e.n, rollout, used.temperature) for e in examples]
        return [Run(e, rollout, Trace(), self._scored(e.n, self._score(name, e.n, rollout))) for e in examples]

    def _scored(self, number: int, score: float | None) -> ExampleScore:
        return ExampleScore(str(number), score, feedback=f"no answer\nto {number}" if score is None else "")

    def _score(self, name: str, number: int, rollout: int) -> float | None:
        row = self.table[name]
        return row[number] if not isinstance(row[number], list) else row[number][rollout]  # type: ignore[index]


@dataclass
class FakeBench:
    evaluator: Any
    observer: Any = field(default_factory=NullObserver)
    teacher: Any = None
    settings: Settings = PRESETS["default"]
    train: Any = None
    splits: Any = None
    seed: int = 0


def state(name: str) -> State:
    return State(LMRef("m"), {"m": Prompt(name)})


score = st.none() | st.sampled_from([0.0, 0.5, 1.0])


@settings(max_examples=200)
@given(st.integers(1, 12).flatmap(lambda n: st.lists(st.lists(score, min_size=n, max_size=n), min_size=1, max_size=6)))
def test_dropping_losers_never_changes_the_winner(rows: list[list[float | None]]) -> None:
    table = {str(number): row for number, row in enumerate(rows)}
    examples = [Example({"n": n}) for n in range(len(rows[0]))]
    bench: Any = FakeBench(FakeEvaluator(table))  # type: ignore[arg-type]
    chunk, prompts._CHUNK = prompts._CHUNK, 3
    try:
        race = run_race([state(name) for name in table], examples, bench, "t")
    finally:
        prompts._CHUNK = chunk

    def mean(row: list[float | None]) -> float:
        return sum(value or 0.0 for value in row) / len(row)

    assert mean(rows[race.best]) == max(map(mean, rows))
    assert race.best == max(range(len(rows)), key=lambda place: (mean(rows[place]), -place))
    assert len(bench.evaluator.asked) <= len(rows) * len(examples)


def test_hopeless_candidates_are_not_run_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "_CHUNK", 5)
    table: dict[str, Any] = {"good": [1.0] * 20, "bad": [0.0] * 20}
    bench: Any = FakeBench(FakeEvaluator(table))
    race = run_race([state("good"), state("bad")], [Example({"n": n}) for n in range(20)], bench, "t")
    assert race.best == 0
    # After 10 of 20 the bad one could still reach 10 of 20, which the good one, who was first, is sure of.
    assert sum(name == "bad" for name, *_ in bench.evaluator.asked) == 10


def test_examples_without_a_passing_trace_are_tried_again_and_hotter() -> None:
    table: dict[str, Any] = {"a": [1.0, [0.0, None, 1.0], [0.0, 0.0, 0.0], [None, 1.0, 0.0]]}
    evaluator = FakeEvaluator(table)
    bench: Any = FakeBench(evaluator, settings=Settings(rollouts=3, rollout_temperature=0.9))
    found = bootstrap(state("a"), [Example({"n": n}) for n in range(4)], bench, "t")
    assert [(run.example.n, run.rollout) for run in found.runs] == [(0, 0), (1, 2), (3, 1)]
    assert found.tried == 4
    assert [(n, rollout, heat) for _, n, rollout, heat in evaluator.asked] == [
        *((n, 0, 0.0) for n in range(4)),
        *((n, 1, 0.9) for n in (1, 2, 3)),
        *((n, 2, 0.9) for n in (1, 2)),
    ]


def test_runs_that_could_not_be_made_are_counted_and_the_first_is_named() -> None:
    table: dict[str, Any] = {"a": [1.0, [None, 0.0], [0.0, None]], "b": [1.0, 0.0, 1.0]}
    bench: Any = FakeBench(FakeEvaluator(table), settings=Settings(rollouts=2))
    examples = [Example({"n": n}) for n in range(3)]
    summary = bootstrap(state("a"), examples, bench, "t").summary
    assert summary == "1 of 3 examples have a passing trace (2 of 5 runs could not be scored: no answer to 1)"
    assert bootstrap(state("b"), examples, bench, "t").summary == "2 of 3 examples have a passing trace"


def test_completions_that_were_cut_off_are_not_learned_from() -> None:
    # The second example's once, the third's always; from the fourth's nothing was read.
    cut = {(1, 0), (2, 0), (2, 1), (2, 2), (3, 0)}

    class Cutting(FakeEvaluator):
        def run(self, *args: Any, rollout: int = 0, **more: Any) -> list[Run]:
            runs = super().run(*args, rollout=rollout, **more)
            return [replace(run, trace=Trace((said(run.example.n, rollout),))) for run in runs]

    def said(number: int, rollout: int) -> ModuleCall:
        completion = Completion("answer: a", finish="length" if (number, rollout) in cut else "stop")
        outputs = {"answer": "a"} if number < 3 else None
        return ModuleCall(ask.signature, {}, Request(LMRef("m"), ()), completion, outputs)

    bench: Any = FakeBench(Cutting({"a": [1.0] * 4}), settings=Settings(rollouts=3))
    found = bootstrap(state("a"), [Example({"n": n}) for n in range(4)], bench, "t")
    assert [(run.example.n, run.rollout) for run in found.runs] == [(0, 0), (1, 1), (3, 0)]
    assert found.summary == (
        "3 of 4 examples have a passing trace (4 of 7 runs passed with a completion that was cut off: raise max_tokens)"
    )


def test_calls_too_long_to_train_on_are_said() -> None:
    class Answering(FakeEvaluator):
        def run(self, *args: Any, **more: Any) -> list[Run]:
            said = ModuleCall(ask.signature, {"notes": []}, Request(LMRef("m"), ()), Completion("a"), {"answer": "a"})
            return [replace(run, trace=Trace((said,))) for run in super().run(*args, **more)]

    def notes(trained_on: int) -> str:
        result = TrainingResult("a" * 32, 5, trained_on, 10, (), 1.0)
        splits = SimpleNamespace(train=[Example({"n": n}) for n in range(3)])
        trained = Trained(result, cached=False)
        bench: Any = FakeBench(Answering({"a": [1.0] * 3}), train=lambda *_: trained, splits=splits)
        return optimize_weights(state("a"), bench, "t").notes

    assert notes(3) == "3 of 3 examples have a passing trace; 5 steps on 3 calls"
    assert notes(1).endswith("; 5 steps on 1 calls (2 left out as longer than max_length or the LM's context)")


def test_the_last_tries_are_twice_as_hot() -> None:
    evaluator = FakeEvaluator({"a": [[0.0] * 8]})  # type: ignore[list-item]
    bench: Any = FakeBench(evaluator, settings=Settings(rollouts=8, rollout_temperature=0.9))
    bootstrap(state("a"), [Example({"n": 0})], bench, "t")
    assert [heat for *_, heat in evaluator.asked] == [0.0, *[0.9] * 5, 1.8, 1.8]


@given(st.integers(0, 6), st.integers(1, 8), st.integers(0, 3))
def test_drawn_demos_are_a_subset_of_each_modules_own(most: int, size: int, seed: int) -> None:
    pool = {name: [Demo({"x": f"{name}{n}"}, {}) for n in range(size)] for name in ("a", "b")}
    drawn = draw_demos(pool, most, random.Random(seed))
    assert drawn == draw_demos(dict(reversed(pool.items())), most, random.Random(seed))
    for name, demos in drawn.items():
        assert min(1, most) <= len(demos) <= most
        assert all(demo in pool[name] for demo in demos)
        assert len({str(demo) for demo in demos}) == len(demos)


def test_a_prompt_that_can_hardly_be_scored_does_not_win() -> None:
    race = Race(4, {0: [1.0, 1.0, 0.0, 0.0], 1: [1.0, None, None, None]})
    assert race.best == 0
    assert race.mean(1) == race.highest(1) == race.lowest(1) == 0.25


def test_equal_scores_in_another_order_are_equal() -> None:
    assert Race(3, {0: [0.9, 0.8, 0.7], 1: [0.7, 0.8, 0.9]}).best == 0


def result(strategy: str, steps: int, *means: float | None) -> list[StrategyResult]:
    return [
        StrategyResult(
            "s",
            strategy,
            seed,
            "m",
            validation=None if mean is None else Evaluation("validation", (ExampleScore("e", mean),)),
            steps=tuple(StepResult("p", "") for _ in range(steps)),
        )
        for seed, mean in enumerate(means)
    ]


def test_the_best_on_validation_is_chosen_and_of_equals_the_shorter() -> None:
    vanilla, p, pw, dash = result("v", 0, 0.5), result("p", 1, 0.75), result("p-w", 2, 0.75), result("w", 0, None)
    assert choose([vanilla, pw, p, dash], 0.05) == p
    assert choose([dash], 0.05) == ()
    assert choose([result("half", 1, 1.0, None), result("both", 2, 0.75, 0.75)], 0.05)[0].strategy == "both"
    falling, rising = result("p-w", 2, 0.9, 0.8, 0.7), result("v", 0, 0.7, 0.8, 0.9)
    assert choose([falling, rising], 0.05) == rising


def test_what_could_hardly_be_scored_on_validation_is_not_chosen() -> None:
    whole, easy = result("v", 0, 0.5), result("p", 1, 1.0)
    lost = ExampleScore("f", None, "unscored")
    easy = [replace(r, validation=Evaluation("validation", (ExampleScore("e", 1.0), lost))) for r in easy]
    assert choose([whole, easy], 0.05) == whole
    assert choose([whole, easy], 0.5) == easy
    assert choose([easy], 0.05) == ()
