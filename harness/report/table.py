"""The table of a suite, for a terminal of any width, with or without colour."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.box import Box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from harness.report.format import DASH, count, distinct_percents, duration, percent, points, strategy_label
from harness.report.safe import one_line
from harness.report.summary import CONFIDENCE, Comparison, Score, StrategySummary, SuiteSummary, summarize
from harness.results import GateResult, Spend, SuiteRun

__all__ = ["RULE_BELOW_HEAD", "SuiteTable", "render", "suite_table"]

RULE_BELOW_HEAD = Box("    \n    \n ── \n    \n    \n ── \n    \n    \n")
_CHOSEN = "●"
_SIGNIFICANT = "*"
_ASCII = str.maketrans({"→": ">", "–": "-", "─": "-", "●": "@", "·": "-", "…": "~", "±": "~"})
_TESTS = {"mcnemar": "exact McNemar test", "sign-flip": "sign-flip permutation test"}


def suite_table(runs: Sequence[SuiteRun]) -> Group:
    """The tables of all suites in ``runs``, one per suite and LM, each with its notes and gate below it.

    Names and reasons come from users and LMs: they are shown as they are, and no markup, ANSI sequence or control
    character in them takes effect. Where there is no score a dash is shown, and its reason below the table.
    """
    parts: list[RenderableType] = []
    for summary in summarize(runs):
        parts += [Text()] if parts else []
        parts.append(SuiteTable(summary))
    return Group(*parts)


def render(renderable: RenderableType, *, width: int, color: bool, ascii_only: bool = False) -> str:
    """``renderable`` as text, lines ending in a line feed, independent of this process's terminal.

    ``color=False`` gives no escape sequence at all; ``ascii_only`` is for terminals and logs that cannot show
    more, and keeps the columns in place.
    """
    buffer = io.StringIO()
    console = Console(
        file=buffer,
        width=width,
        color_system="standard" if color else None,
        force_terminal=color,
        no_color=not color,
        legacy_windows=False,
        markup=False,
        emoji=False,
        highlight=False,
        _environ={},
    )
    console.print(renderable)
    lines = [line.rstrip() for line in buffer.getvalue().split("\n")]
    text = "\n".join(lines).rstrip("\n") + "\n"
    if ascii_only:
        text = text.replace(" ± ", "+/-").translate(_ASCII).encode("ascii", "replace").decode()
    return text


@dataclass(frozen=True)
class _Column:
    head: str
    cell: Callable[[StrategySummary], Text]
    total: Callable[[Spend], str] | None = None
    justify: Literal["left", "right"] = "right"


@dataclass(frozen=True)
class _Layout:
    """How much is shown, and the blanks between columns."""

    detail: Literal["full", "compact", "scores"]
    gap: int = 2


_LAYOUTS = (_Layout("full"), _Layout("compact"), _Layout("compact", gap=1), _Layout("scores"))


class SuiteTable:
    """One suite's table, in the richest form that the width allows.

    From about 110 columns on it shows intervals of the differences, and of means over seeds; under about 75 only
    the scores, with the costs summed up in a note.
    """

    def __init__(self, summary: SuiteSummary) -> None:
        self.summary = summary

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """rich's hook: heading, table, notes and gate for the width at hand."""
        yield _heading(self.summary)
        if self.summary.strategies:
            layout, table = self._fitting(console, options)
            yield table
            if layout.detail == "scores":
                yield _costs(self.summary.spend)
        notes = Table.grid(padding=(0, 1, 0, 0))
        for mark, note in _notes(self.summary):
            notes.add_row(Text(mark), note)
        if notes.row_count:
            yield notes
        yield from (_gate(gate) for gate in self.summary.gates)

    def _fitting(self, console: Console, options: ConsoleOptions) -> tuple[_Layout, Table]:
        unbounded = options.update(max_width=10_000)
        for layout in _LAYOUTS:
            table = self._table(layout)
            if Measurement.get(console, unbounded, table).maximum <= options.max_width:
                break
        return layout, table

    def _table(self, layout: _Layout) -> Table:
        columns = list(self._columns(layout.detail))
        table = Table(
            box=RULE_BELOW_HEAD,
            show_edge=False,
            pad_edge=False,
            padding=(0, layout.gap - 1, 0, 0),  # and the box has a blank of its own between columns
            header_style="bold",
            show_footer=len(self.summary.strategies) > 1 and any(column.total for column in columns),
        )
        for index, column in enumerate(columns):
            foot = column.total(self.summary.spend) if column.total else "" if index else "total"
            table.add_column(
                Text(column.head),
                Text(foot),
                justify=column.justify,
                vertical="bottom",
                # Figures stay on their line; a long strategy gives way.
                no_wrap=index > 0,
                overflow="fold",
            )
        for row in self.summary.strategies:
            table.add_row(*(column.cell(row) for column in columns), style="bold" if row.chosen else "")
        return table

    def _columns(self, detail: Literal["full", "compact", "scores"]) -> Iterator[_Column]:
        rows = self.summary.strategies
        wide = detail == "full"
        level = f"{100 * CONFIDENCE:.0f} %"
        yield _Column("strategy", _name, justify="left")
        if any(row.validation for row in rows):
            yield _Column("valid.", lambda row: Text(_mean(row.validation)))
        # Over seeds the spread is what the interval is over examples: both where there is room.
        spread = any(row.test and row.test.sd is not None for row in rows)
        if not spread:
            yield _Column(f"test ({level} interval)" if wide else f"test ({level})", lambda r: Text(_bounds(r.test)))
        else:
            yield _Column("test ± sd", lambda row: Text(_mean(row.test)))
            if wide:
                yield _Column(f"{level} interval", lambda row: Text(_interval(row.test)))
        if any(row.comparison for row in rows):
            yield _Column("vs vanilla" if wide else "vs\nvanilla", lambda row: _difference(row, wide))
        if detail == "scores":
            return
        if any(row.spend.calls or row.spend.cached for row in rows):
            yield _Column("LM calls" if wide else "LM\ncalls", lambda r: Text(count(r.spend.calls)), _calls)
            yield _Column("saved", lambda row: Text(count(row.spend.cached)), lambda s: count(s.cached))
        if any(row.spend.trainings or row.spend.training_seconds for row in rows):
            yield _Column("training", lambda row: Text(_training(row.spend)), _training)
        if any(row.reference is not None for row in rows):
            yield _Column("paper", lambda row: Text(DASH if row.reference is None else f"{row.reference:.1f}"))


def _heading(summary: SuiteSummary) -> Text:
    parts = [one_line(summary.lm)] if summary.lm else []
    if summary.seeds:
        seeds = ", ".join(map(str, summary.seeds))
        parts.append(f"seed{'s' if len(summary.seeds) > 1 else ''} {seeds}")
    sizes = [len(r.test.scores) for row in summary.strategies for r in row.results if r.test is not None]
    if sizes:
        parts.append(f"{max(sizes)} test example{'s' if max(sizes) > 1 else ''}")
    if summary.strategies:
        parts.append("scores in %")
    text = Text(one_line(summary.suite), style="bold")
    return text.append(" · ".join(["", *parts]), style="not bold")


def _name(row: StrategySummary) -> Text:
    return Text(f"{row.strategy} {_CHOSEN}" if row.chosen else row.strategy)


def _mean(score: Score | None) -> str:
    if score is None:
        return DASH
    return percent(score.mean) if score.sd is None else f"{percent(score.mean)} ± {100 * score.sd:>4.1f}"


def _interval(score: Score | None) -> str:
    return DASH if score is None else f"{percent(score.low)}–{percent(score.high)}"


def _bounds(score: Score | None) -> str:
    # Pads the bounds so that scores stand below each other in a column that is set flush right.
    return DASH if score is None else f"{percent(score.mean)} {f'({_interval(score)})':>11}"


def _difference(row: StrategySummary, wide: bool) -> Text:
    if row.comparison is None:
        return Text("" if row.strategy == "vanilla" else DASH)
    difference = row.comparison.difference
    text = points(difference.mean)
    if wide:
        text += f" ({points(difference.low)} to {points(difference.high)})"
    significant = row.comparison.significant
    style = ("green" if difference.mean > 0 else "red") if significant else ""
    return Text(f"{text} {_SIGNIFICANT if significant else ' '}", style=style)


def _calls(spend: Spend) -> str:
    return count(spend.calls)


def _training(spend: Spend) -> str:
    return duration(spend.training_seconds) if spend.trainings or spend.training_seconds else DASH


def _costs(spend: Spend) -> Text:
    return Text(f"{spend.calls:,} LM calls made, {spend.cached:,} saved, training {_training(spend)}, in all")


def _notes(summary: SuiteSummary) -> Iterator[tuple[str, Text]]:
    """What stands below the table, each with the mark it explains."""
    rows = summary.strategies
    if any(row.chosen for row in rows):
        yield _CHOSEN, Text("chosen on validation")
    yield from _comparison_note([row.comparison for row in rows if row.comparison])
    by_reason: dict[str, list[str]] = {}
    for row in rows:
        for reason, seeds in row.reasons:
            some = "" if len(seeds) == len(row.results) else f" (seed {', '.join(map(str, seeds))})"
            by_reason.setdefault(one_line(reason), []).append(f"{row.strategy}{some}")
    for reason, strategies in by_reason.items():
        yield DASH, Text(f"{', '.join(strategies)}: {reason}", style="yellow")
    for split in ("validation", "test"):
        yield from _count_notes(split, rows)


def _count_notes(split: Literal["validation", "test"], rows: Sequence[StrategySummary]) -> Iterator[tuple[str, Text]]:
    unscored, unparsable = [], []
    for row in rows:
        found = [e for r in row.results if (e := r.test if split == "test" else r.validation) is not None]
        total = sum(len(e.scores) for e in found)
        if failed := sum(e.unscored for e in found):
            unscored.append(f"{row.strategy} {failed:,} of {total:,}")
        if wrong := sum(e.unparsable for e in found):
            unparsable.append(f"{row.strategy} {wrong:,} of {total:,}")
    if unscored:
        what = f"unscored in {split} (the LM, its judge or the network failed; left out)"
        yield "!", Text(f"{what}: {', '.join(unscored)}", style="yellow")
    if unparsable:
        yield "?", Text(f"unparsable in {split} (counted as wrong): {', '.join(unparsable)}")


def _comparison_note(compared: Sequence[Comparison]) -> Iterator[tuple[str, Text]]:
    if not compared:
        return
    level = f"{1 - CONFIDENCE:.2g}"
    how = " or ".join(dict.fromkeys(_TESTS[c.difference.test] for c in compared))
    if len(compared) > 1:
        how += f", Holm's correction over {len(compared)} strategies"
    if any(c.significant for c in compared):
        yield _SIGNIFICANT, Text(f"differs from vanilla: p < {level}, {how}")
    else:
        yield "", Text(f"no significant difference to vanilla: p >= {level}, {how}")


def _gate(gate: GateResult) -> Text:
    text = Text("gate ")
    text.append("passed" if gate.passed else "FAILED", style="bold green" if gate.passed else "bold red")
    score, threshold = percent(gate.score), "no threshold"
    if gate.threshold is not None:
        score, threshold = distinct_percents(gate.score, gate.threshold)
        threshold = f"threshold {threshold}"
    if score != DASH:
        score += f" ({percent(gate.low)}–{percent(gate.high)})"
    text.append(f": {strategy_label(gate.strategy)} scores {score}, {threshold}")
    if gate.saved:
        text.append(f"; saved to {one_line(gate.saved)}")
    return text
