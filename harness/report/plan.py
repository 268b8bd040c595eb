"""The plan of a dry run, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from harness.optimize.plan import Edge, SuitePlan, Work
from harness.report.format import DASH, count, strategy_label
from harness.report.safe import one_line
from harness.report.table import RULE_BELOW_HEAD

__all__ = ["plan_tables"]

_NOTE = (
    "LM calls, completion tokens and training examples are upper bounds, answers in the store are free; prompt "
    "tokens are estimated from a run with made-up answers at 4 characters a token; completion tokens are "
    "max_tokens for every call. Calls of metrics are not counted."
)


def plan_tables(plans: Sequence[SuitePlan]) -> Group:
    """One table per suite, and what all of them come to. Names are shown as they are, no markup takes effect."""
    parts: list[RenderableType] = []
    for plan in plans:
        parts += [*_suite(plan), Text()]
    taken = [plan for plan in plans if not plan.skipped]
    if len(taken) > 1:
        total = sum((plan.total for plan in taken), Work())
        parts.append(Text(f"all suites: {_words(total)}", style="bold"))
    if taken:
        parts.append(Text(_NOTE))
    parts.append(Text("Nothing was run: this is the plan of --bt-optimize."))
    return Group(*parts)


def _suite(plan: SuitePlan) -> list[RenderableType]:
    head = f"{one_line(plan.suite)} · {one_line(plan.lm)}"
    if plan.skipped:
        return [Text(head, style="bold"), Text(f"skipped: {one_line(plan.skipped)}", style="yellow")]
    if plan.teacher is not None:
        head += f" · taught by {one_line(plan.teacher)}"
    seeds = ", ".join(map(str, plan.seeds))
    head += f" · seed{'s' if len(plan.seeds) > 1 else ''} {seeds}"
    sizes = plan.sizes or {}
    train, validation = plan.searched
    about = (
        f"{sizes['train']:,} training, {sizes['validation']:,} validation, {sizes['test']:,} test examples; prompts "
        f"are searched with {train:,} + {validation:,} of the training examples; {_calls(plan.calls_a_run)} a run"
    )
    parts: list[RenderableType] = [Text(head, style="bold"), Text(about), _table(plan)]
    if plan.note:
        parts.append(Text(plan.note, style="yellow"))
    return parts


def _table(plan: SuitePlan) -> Table:
    priced = bool(plan.total.cost) or plan.total.cost is None
    table = Table(box=RULE_BELOW_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), show_footer=True)
    total = plan.total
    columns: list[tuple[str, str]] = [
        ("step", "total"),
        ("calls ≤", count(sum(edge.step.calls for edge in plan.edges if edge.step))),
        ("to score ≤", count(sum(edge.scoring.calls for edge in plan.edges))),
        ("prompt ≈", count(total.prompt_tokens)),
        ("completion ≤", count(total.completion_tokens)),
        ("training ≤", count(total.training_examples)),
    ]
    if priced:
        columns.append(("cost ≤", _dollars(total.cost)))
    for number, (head, foot) in enumerate(columns):
        table.add_column(head, foot, justify="right" if number else "left", no_wrap=True)
    for edge in plan.edges:
        cells = _cells(edge)
        table.add_row(*cells[: len(columns)])
    return table


def _cells(edge: Edge) -> list[str]:
    name = strategy_label(edge.name)
    if edge.step is None:
        return [name, DASH, count(edge.scoring.calls), DASH, DASH, DASH, DASH]
    both = edge.step + edge.scoring
    return [
        name,
        count(edge.step.calls),
        count(edge.scoring.calls),
        count(both.prompt_tokens),
        count(both.completion_tokens),
        count(edge.step.training_examples) if edge.step.training_examples else "",
        _dollars(both.cost),
    ]


def _words(work: Work) -> str:
    words = (
        f"at most {work.calls:,} LM calls, {count(work.completion_tokens)} completion tokens and "
        f"{work.training_examples:,} training examples, about {count(work.prompt_tokens)} prompt tokens"
    )
    if work.cost is None:
        return f"{words}; cost unknown: an LM has no price"
    return words + (f"; at most {_dollars(work.cost)}" if work.cost else "")


def _calls(number: int) -> str:
    return f"{number} LM call{'' if number == 1 else 's'}"


def _dollars(cost: float | None) -> str:
    return DASH if cost is None else f"${cost:,.2f}"
