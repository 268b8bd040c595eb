"""Budgets: exactly what was allowed is spent, what is missing is named, and a larger budget goes on from there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import BudgetError, UsageError
from harness.lm.budget import Budget, Limits, MemoryLedger, Price, Spent
from harness.lm.endpoint import Endpoint, load_litellm
from harness.lm.ledger import FileLedger
from harness.lm.prices import prices
from harness.lm.request import Completion, LMRef, Message, Reply, Request, Usage
from harness.runtime import Runtime  # noqa: F401 -- pytester takes back imports, which extension modules do not survive
from tests.simulated import SUITE, events

REQUEST = Request(LMRef("sim/plain"), (Message("user", "hi"),))


def free(_: LMRef) -> Price:
    return Price()


@pytest.mark.parametrize(
    ("limits", "spent", "reason"),
    [
        (Limits(), Spent(10**9, 10**9, 1e9), ""),
        (Limits(calls=3), Spent(2), ""),
        (Limits(calls=3), Spent(3), "the budget of 3 LM calls is used up"),
        (Limits(calls=0), Spent(), "the budget of 0 LM calls is used up"),
        (Limits(tokens=1000), Spent(5, 1234), "the budget of 1,000 tokens is used up (1,234 spent)"),
        (Limits(cost=0.5), Spent(5, 9, 0.51), "the budget of $0.50 is used up ($0.51 spent)"),
    ],
)
def test_limits(limits: Limits, spent: Spent, reason: str) -> None:
    assert limits.reached(spent) == reason


def test_tokens_and_cost_are_those_of_calls_made() -> None:
    ledger = MemoryLedger()
    budget = Budget(Limits(cost=1.0), ledger, lambda _: Price(0.001, 0.01))
    reply = Reply(Completion("x", Usage(100, 20)), cached=False)
    budget.gate(REQUEST)
    budget.record(REQUEST, reply)
    budget.record(REQUEST, Reply(reply.completion, cached=True))
    budget.record(REQUEST, BudgetError("no"))
    assert ledger.spent == Spent(1, 120, pytest.approx(0.3))


def test_a_program_cannot_hide_a_refusal() -> None:
    budget = Budget(Limits(calls=1), MemoryLedger(), free)
    budget.gate(REQUEST)
    budget.reraise(0)
    with pytest.raises(BudgetError, match="budget of 1 LM calls is used up; run again with a larger one"):
        budget.gate(REQUEST)
    with pytest.raises(BudgetError):
        budget.reraise(0)
    budget.reraise(1)


@pytest.mark.parametrize("make", [lambda _: MemoryLedger(), lambda folder: FileLedger(folder / "ledger.json")])
def test_ledgers(make: Callable[[Path], MemoryLedger | FileLedger], tmp_path: Path) -> None:
    first, second = make(tmp_path), make(tmp_path)
    second = first if isinstance(first, MemoryLedger) else second
    limits = Limits(calls=3)
    for number in range(5):
        assert bool(first.add(Spent(1), limits.reached)) == (number >= 3)
    assert second.add(Spent(), limits.reached)


def test_prices_come_from_the_table_then_from_litellm() -> None:
    table = {"openai/*": Endpoint(prompt_price=2.0, completion_price=8.0)}
    assert prices(table)(LMRef("openai/anything")) == Price(2e-6, 8e-6)
    assert prices(table)(LMRef("local/nano", "adapter")) == Price()
    listed = prices({})(LMRef("openai/gpt-4o-mini"))
    assert 0 < listed.prompt < listed.completion < 1e-4
    tuned = prices({})(LMRef("openai/gpt-4o-mini", "ft:gpt-4o-mini-2024-07-18:org::id"))
    assert tuned.prompt > listed.prompt
    with pytest.raises(UsageError, match=r"nobody knows the price of openai/no-such-lm.*prompt_price"):
        prices({})(LMRef("openai/no-such-lm"))


def test_listed_prices_are_those_of_short_prompts() -> None:
    listed = load_litellm().get_model_info("gemini/gemini-2.5-pro")
    found = prices({})(LMRef("gemini/gemini-2.5-pro"))
    assert found.prompt == pytest.approx(listed["input_cost_per_token"])
    assert found.completion == pytest.approx(listed["output_cost_per_token"])
    assert listed["input_cost_per_token_above_200k_tokens"] > listed["input_cost_per_token"]


def test_a_listed_price_of_nought_is_none_unless_the_table_says_it() -> None:
    gap = LMRef("codestral/codestral-latest")
    assert load_litellm().cost_per_token(model=gap.model, prompt_tokens=1, completion_tokens=1) == (0, 0)
    with pytest.raises(UsageError, match="nobody knows the price of codestral/codestral-latest"):
        prices({})(gap)
    assert prices({"codestral/*": Endpoint(prompt_price=0)})(gap) == Price()
    for model in ("ollama_chat/llama3", "ollama_chat/llama3.2:3b", "ollama/llama3"):
        assert prices({})(LMRef(model)) == Price()
    assert prices({"ollama_chat/*": Endpoint(prompt_price=1)})(LMRef("ollama_chat/llama3")) == Price(1e-6)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_budget_of_100_calls_makes_exactly_100(project: pytest.Pytester, log: Path, asynchronous: bool) -> None:
    if asynchronous:
        source = SUITE.replace("THRESHOLD", "0.5").replace("def parity(", "async def parity(")
        project.makepyfile(test_parity=source)
    rows = SUITE.replace("THRESHOLD", "0.5").replace("rows(200, 25)", "rows(200, 1000)")
    if not asynchronous:
        project.makepyfile(test_parity=rows)
    options = ["--bt-optimize", "--bt-json", "report.json"]
    result = project.runpytest(*options, "--bt-max-calls", "100")
    assert result.ret == 1
    assert len(events(log, "call")) == 100
    result.stdout.fnmatch_lines(
        ["*LM programs*", "Stopped: the budget of 100 LM calls is used up; run again with a larger one*", "Left out: *"]
    )
    assert "parity [best]" in result.stdout.str()
    found = json.loads((project.path / "report.json").read_text())
    for row in found["suites"][0]["strategies"]:
        for part in row["results"]:
            assert (part["test"] is None) == part["reason"].startswith("left out: the budget of 100")


def test_what_was_finished_is_reported_and_a_larger_budget_goes_on(project: pytest.Pytester, log: Path) -> None:
    options = ["--bt-optimize", "--bt-json", "report.json"]
    first = project.runpytest(*options, "--bt-max-calls", "60")
    first.assert_outcomes(passed=1, failed=8)
    first.stdout.fnmatch_lines(["vanilla * (*–*) * 45 * 0", "Left out: parity ?p?, parity ?w?, * parity ?best?"])
    project.runpytest("--bt-optimize", "--lf").assert_outcomes(passed=8)
    asked = [call["digest"] for call in events(log, "call")]
    assert len(asked) == len(set(asked)), "nothing that was paid for is asked again"
    quiet = project.runpytest(*options, "--bt-store", "quiet")
    again = project.runpytest(*options, "--bt-max-calls", "0")
    again.assert_outcomes(passed=9)
    quiet.assert_outcomes(passed=9)


def test_workers_share_one_budget(project: pytest.Pytester, log: Path) -> None:
    result = project.runpytest_subprocess("--bt-optimize", "-n", "2", "--bt-max-calls", "100")
    assert result.ret == 1
    assert len(events(log, "call")) == 100
    result.stdout.fnmatch_lines(["Stopped: the budget of 100 LM calls is used up*", "Left out: *best*"])


def test_tokens(project: pytest.Pytester, log: Path) -> None:
    result = project.runpytest("--bt-max-tokens", "50", "--bt-concurrency", "1")
    assert result.ret == 1
    assert len(events(log, "call")) == 4  # 13 tokens each: after the fourth 52 are spent
    result.stdout.fnmatch_lines(["Stopped: the budget of 50 tokens is used up (52 spent)*", "Left out: *vanilla*"])


def test_an_lm_without_a_price_is_not_called() -> None:
    ledger = MemoryLedger()
    with pytest.raises(UsageError, match="nobody knows the price of sim/plain"):
        Budget(Limits(cost=1.0), ledger, prices({})).gate(REQUEST)
    assert ledger.spent == Spent()
