"""LoRA by learning rate and number of steps, on generated tables of measurements, none of them a suite's.

``python benchmarks/lora_settings.py [TABLES]``: for each table the embedded LM is tuned on 50 gold zero-shot rows
and asked for 60 others. One line for each learning rate and number of steps, with the mean over tables.
"""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Literal

sys.path.insert(0, str(Path(__file__).parent.parent))

from harness import module
from harness.lm.request import LMRef, Request, Sampling
from harness.observe import NullObserver
from harness.prompt import chat, possible_replies, read_reply, write_reply
from harness.runtime import Runtime
from harness.state import Prompt
from harness.train.job import ChatExample, LoraSettings, TrainingJob

MODEL = "local/nano"
LABELS = ("pebble", "boulder", "shingle")
RATES = (1e-3, None, 1e-2)
STEPS = (40, 120, 240)
Row = tuple[dict[str, float], str]


@module
def sort_stone(width: float, height: float, weight: float, hardness: float) -> Literal["pebble", "boulder", "shingle"]:
    """Name the kind of stone from its measurements."""


def table(seed: int) -> list[Row]:
    """Three overlapping clusters; each measurement has its own scale, and one of them tells nothing."""
    rng = random.Random(seed)
    names = [field.name for field in sort_stone.signature.inputs]
    idle = rng.choice(names)
    scales = {name: rng.uniform(2, 40) for name in names}
    centres = {label: {name: rng.uniform(0.2, 0.8) for name in names} for label in LABELS}
    rows = []
    for number in range(110):
        label = LABELS[number % 3]
        middle = {name: 0.5 if name == idle else centres[label][name] for name in names}
        values = {name: round(max(0.1, scales[name] * rng.gauss(middle[name], 0.1)), 1) for name in names}
        rows.append((values, label))
    rng.shuffle(rows)
    return rows


def accuracy(runtime: Runtime, rows: list[Row], settings: LoraSettings, seed: int) -> float:
    """The share of right answers on the rows after the first 50, which are trained on."""
    contract = sort_stone.signature
    turns = [chat(contract, Prompt(), values) for values, _ in rows]
    examples = tuple(
        ChatExample(asked, write_reply(contract, {"answer": label}))
        for asked, (_, label) in zip(turns[:50], rows[:50], strict=True)
    )
    trained = runtime.train(TrainingJob(LMRef(MODEL), examples, settings, seed), "tuning", NullObserver())
    lm = LMRef(MODEL, trained.result.adapter)
    waiting = [
        runtime.client.submit(Request(lm, asked, Sampling(max_tokens=12), choices=possible_replies(contract)))
        for asked in turns[50:]
    ]
    replies = [read_reply(contract, one.result().completion.text)["answer"] for one in waiting]
    return mean(reply == label for reply, (_, label) in zip(replies, rows[50:], strict=True))


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with Runtime.open(None) as runtime:
        for rate in RATES:
            for steps in STEPS:
                settings = replace(LoraSettings(), learning_rate=rate, epochs=0, min_steps=steps)
                found = [accuracy(runtime, table(seed), settings, seed) for seed in range(count)]
                shown = " ".join(f"{one:.2f}" for one in found)
                print(f"rate {rate or 'by width':<9} steps {steps:<4} mean {mean(found):.3f}  ({shown})", flush=True)


if __name__ == "__main__":
    main()
