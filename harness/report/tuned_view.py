"""A tuned program as people read it in a terminal. What an LM wrote is shown as data, never as markup."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from harness.prompt import shown
from harness.report.format import percent, strategy_label
from harness.report.safe import one_line, shorten
from harness.state import Demo, Prompt
from harness.tuned import TunedFile, read_tuned

__all__ = ["show"]

_CHARACTERS, _LINES = 2_000, 40
"""Of each text shown."""


def show(path: Path, console: Console | None = None) -> None:
    """Print a tuned program's LM, scores, instructions and demos. Raises `TunedProgramError`."""
    tuned = read_tuned(path)
    # Highlighting and emoji codes would both read something into the texts.
    screen = console or Console(highlight=False, emoji=False, markup=False)
    screen.print(_facts(tuned))
    if not tuned.state.prompts:
        screen.print(Text("every module has its original prompt"))
    for name, prompt in tuned.state.prompts.items():
        screen.print(Panel(_prompt(prompt), title=Text(one_line(name)), title_align="left"))


def _facts(tuned: TunedFile) -> Table:
    lm, sampling = tuned.state.lm, tuned.sampling
    facts = {
        "program": tuned.program,
        "strategy": strategy_label(tuned.strategy),
        "LM": lm.model,
        "weights": lm.adapter or "untuned",
        "sampling": f"temperature {sampling.temperature:g}, top_p {sampling.top_p:g}, {sampling.max_tokens} tokens",
    }
    for split, score in tuned.scores.items():
        facts[split] = _score(score)
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(Text(one_line(str(name)), style="bold"), Text(one_line(value)))
    return table


def _score(score: Any) -> str:
    if not isinstance(score, Mapping) or not isinstance(score.get("mean"), (int, float)):
        return str(score)
    unscored = f", {score['unscored']} unscored" if score.get("unscored") else ""
    return f"{percent(score['mean'])} % of {score.get('examples', '?')} examples{unscored}"


def _prompt(prompt: Prompt) -> RenderableType:
    parts: list[RenderableType] = []
    if prompt.instruction is not None:
        parts.append(Text(shorten(prompt.instruction, _CHARACTERS, _LINES)))
    for number, demo in enumerate(prompt.demos, 1):
        parts.append(Text(f"demo {number} of {len(prompt.demos)}", style="bold"))
        parts.append(_demo(demo))
    return Group(*parts)


def _demo(demo: Demo) -> Table:
    table = Table.grid(padding=(0, 2))
    for values, style in ((demo.inputs, ""), (demo.outputs, "green")):
        for name, value in values.items():
            text = shorten(shown(value, _CHARACTERS), _CHARACTERS, _LINES)
            table.add_row(Text(one_line(name), style="dim"), Text(text, style=style))
    return table
