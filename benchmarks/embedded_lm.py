"""How fast the embedded LM is on one thread of this machine: loading, answering, LoRA.

``OMP_NUM_THREADS=1 python benchmarks/embedded_lm.py``: one line each, in seconds, without the imports of torch and
transformers.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parent.parent))

import peft  # noqa: F401 -- imports are not what is measured
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.lm.request import LMRef, Message, Request, Sampling
from harness.observe import NullObserver
from harness.runtime import Runtime
from harness.train.job import ChatExample, LoraSettings, TrainingJob
from recipes.nano.episode import Episode, messages
from recipes.nano.numeric import table

MODEL = "local/nano"
FOLDER = Path(__file__).parent.parent / "harness" / "models" / "nano"


def turns(episode: Episode) -> tuple[Message, ...]:
    """The chat up to the answer that is asked for."""
    return tuple(Message(turn["role"], turn["content"]) for turn in messages(episode)[:-1])  # type: ignore[arg-type]


def main() -> None:
    torch.set_num_threads(1)
    rng = Random(0)
    demos = [turns(table(rng, 13, features=4, classes=3).episode) for _ in range(65)]
    rows = [table(rng, 1, features=4, classes=3).episode for _ in range(96)]
    for run in ("first", "second"):
        began = time.perf_counter()
        AutoModelForCausalLM.from_pretrained(FOLDER)
        AutoTokenizer.from_pretrained(FOLDER)
        print(f"loading with transformers, {run} time in this process: {time.perf_counter() - began:.2f} s")
    with Runtime.open(None) as runtime:
        runtime.client.call(Request(LMRef(MODEL), demos[0], Sampling(max_tokens=1)))
        for count in (1, 64):
            asked = demos[1 : 1 + count]
            began = time.perf_counter()
            found = [runtime.client.submit(Request(LMRef(MODEL), chat, Sampling(max_tokens=12))) for chat in asked]
            usage = [one.result().completion.usage for one in found]
            seconds = time.perf_counter() - began
            read, wrote = (
                sum(part) for part in zip(*((u.prompt_tokens, u.completion_tokens) for u in usage), strict=True)
            )
            print(f"{count} answers with 12 demos: {seconds:.2f} s ({read} tokens read, {wrote} written)")
        examples = tuple(ChatExample(turns(row), messages(row)[-1]["content"]) for row in rows)
        job = TrainingJob(LMRef(MODEL), examples, LoraSettings(epochs=0, min_steps=120), seed=0)
        result = runtime.train(job, "tuning", NullObserver()).result
        print(f"LoRA, {result.steps} steps of {job.settings.batch_size}: {result.seconds:.1f} s")


if __name__ == "__main__":
    main()
