"""The same training through Unsloth and through transformers + PEFT.

``python benchmarks/unsloth_vs_peft.py`` trains the embedded LM on the training split of Iris (a `w` step in which
every trace passes) with both loaders, lets one engine serve both adapters, and prints loss curves, seconds and
scores. It needs no GPU: Unsloth's CPU backend is taken where there is none.

``python benchmarks/unsloth_vs_peft.py --gpu 1b`` (or ``8b``) trains a Llama of that size with random weights on
CUDA and prints tokens per second and peak memory. It downloads nothing; 8b writes 16 GB to the folder for
temporary files.

Each training has a process of its own: Unsloth changes transformers and TRL for good.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LOADERS = ("transformers", "unsloth")
NANO = ROOT / "harness" / "models" / "nano"
# The published configurations of Llama 3.2 1B and Llama 3.1 8B.
SIZES: dict[str, dict[str, Any]] = {
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "tie_word_embeddings": True},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "tie_word_embeddings": False},
}
SHARED = {"vocab_size": 128256, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 4096}


def iris_job(seed: int) -> Any:
    """The training job of a weight step on Iris in which every trace passes."""
    from harness.lm.request import LMRef
    from harness.optimize.settings import PRESETS
    from harness.prompt import chat
    from harness.state import Prompt
    from harness.train.job import ChatExample, TrainingJob
    from programs.iris import classify
    from suites.test_iris import iris_splits

    signature = classify.signature
    fields = [field.name for field in signature.inputs]
    examples = tuple(
        ChatExample(
            chat(signature, Prompt(), {name: row[name] for name in fields}),
            f"{signature.outputs[0].name}: {row['species']}",
        )
        for row in iris_splits()["train"]
    )
    return TrainingJob(LMRef("local/nano"), examples, PRESETS["default"].lora, seed)


def long_job(steps: int) -> Any:
    """A job of ``steps`` batches of 8 examples with about 1,000 tokens each."""
    import random

    from harness.lm.request import LMRef, Message
    from harness.train.job import ChatExample, LoraSettings, TrainingJob

    rng = random.Random(0)
    words = ("the", "of", "a", "number", "question", "answer", "is", "not", "what", "year", "river", "name", "city")
    examples = tuple(
        ChatExample(
            (Message("user", " ".join(rng.choices(words, k=750))),),
            " ".join(rng.choices(words, k=250)),
        )
        for _ in range(8 * steps)
    )
    settings = LoraSettings(rank=32, alpha=64, learning_rate=1e-4, epochs=1, min_steps=0, batch_size=8)
    return TrainingJob(LMRef("local/random"), examples, settings, 0)


def train(loader: str, model: str, folder: Path, gpu: bool) -> None:
    """Train with one loader in this process; prints what was measured as JSON."""
    from harness.lm.encode import encode_example
    from harness.lm.local import LocalProvider
    from harness.train.adapters import Adapters

    job = long_job(20) if gpu else iris_job(0)
    adapters = Adapters(folder / "adapters")
    provider = LocalProvider(model, adapters, loader=loader)
    times: list[float] = []
    result = provider.train(job, adapters, lambda *_: times.append(time.perf_counter()))
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model.removeprefix("local/") if gpu else NANO)
    tokens = sum(len(encode_example(tokenizer, example)[0]) for example in job.examples) / len(job.examples)
    # The first steps compile and allocate.
    step = statistics.median(later - earlier for earlier, later in pairwise(times[2:]))
    print(
        json.dumps(
            {
                "adapter": result.adapter,
                "losses": result.losses,
                "seconds": result.seconds,
                "step": step,
                "tokens_per_second": tokens * job.settings.batch_size / step,
                "peak": torch.cuda.max_memory_allocated() if gpu else None,
            }
        )
    )
    provider.close()


def in_own_process(loader: str, model: str, folder: Path, gpu: bool) -> dict[str, Any]:
    command = [sys.executable, __file__, "--loader", loader, "--model", model, "--folder", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} | ({} if gpu else {"UNSLOTH_FORCE_CPU": "1"})
    ran = subprocess.run(
        [*command, *(["--gpu", "1b"] if gpu else [])], stdout=subprocess.PIPE, text=True, check=True, env=environment
    )
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def scores(folder: Path, digests: list[str]) -> list[float]:
    """The share of right answers on Iris' test split with each adapter, all served by one engine."""
    from harness.errors import ParseError
    from harness.lm.local import LocalProvider
    from harness.lm.request import LMRef, Request, Sampling
    from harness.prompt import chat, read_reply
    from harness.state import Prompt
    from harness.train.adapters import Adapters
    from programs.iris import classify
    from suites.test_iris import iris_splits

    signature = classify.signature
    fields = [field.name for field in signature.inputs]
    rows = iris_splits()["test"]
    provider = LocalProvider("local/nano", Adapters(folder / "adapters"), loader="transformers")

    async def answers(digest: str) -> list[str]:
        requests = [
            Request(
                LMRef("local/nano", digest),
                chat(signature, Prompt(), {name: row[name] for name in fields}),
                Sampling(max_tokens=32),
            )
            for row in rows
        ]
        return [done.text for done in await asyncio.gather(*map(provider.complete, requests))]

    def right(text: str, row: dict[str, Any]) -> bool:
        try:
            return bool(read_reply(signature, text)[signature.outputs[0].name] == row["species"])
        except ParseError:
            return False

    found = []
    for digest in digests:
        said = asyncio.run(answers(digest))
        found.append(statistics.mean(right(text, row) for text, row in zip(said, rows, strict=True)))
    provider.close()
    return found


def random_llama(size: str, folder: Path) -> Path:
    """Write a Llama with random weights in bfloat16, made on the GPU, and the embedded LM's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**SHARED, **SIZES[size], dtype="bfloat16")
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    target = folder / f"llama-{size}"
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(NANO).save_pretrained(target)
    return target


def curve(losses: list[float]) -> str:
    """Ten values of a loss curve, evenly spread."""
    at = [round(index * (len(losses) - 1) / 9) for index in range(10)]
    return " ".join(f"{losses[index]:.3f}" for index in at)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", choices=sorted(SIZES), help="measure a random Llama of this size on CUDA")
    for hidden in ("--loader", "--model", "--folder"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loader:
        train(options.loader, options.model, Path(options.folder), bool(options.gpu))
        return
    with tempfile.TemporaryDirectory() as name:
        folder, gpu = Path(name), options.gpu is not None
        model = f"local/{random_llama(options.gpu, folder)}" if gpu else "local/nano"
        found = {loader: in_own_process(loader, model, folder, gpu) for loader in LOADERS}
        right = [] if gpu else scores(folder, [one["adapter"] for one in found.values()])
    for index, (loader, one) in enumerate(found.items()):
        print(f"{loader:12}  loss {curve(one['losses'])}")
        line = f"{'':12}  {len(one['losses'])} steps in {one['seconds']:.1f} s, {one['tokens_per_second']:.0f} tokens/s"
        if gpu:
            print(f"{line}, peak memory {one['peak'] / 2**30:.1f} GiB")
        else:
            print(f"{line}, score {100 * right[index]:.0f} % on the test split, served by the same engine")
    plain, faster = (found[loader]["losses"] for loader in LOADERS)
    difference = max(abs(a - b) for a, b in zip(plain[:10], faster[:10], strict=True))
    print(f"largest difference of the losses in the first ten steps: {difference:.2g}")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
