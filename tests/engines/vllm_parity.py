"""Greedy answers of one model under vLLM, under transformers' own ``generate`` and under the local engine.

``python tests/engines/vllm_parity.py BASE_URL NAME FOLDER``: the server at BASE_URL serves the model in FOLDER as
NAME, in float32, and takes adapters at run time. 100 chats, half of them with demos, once without and once with an
adapter that is trained for it. Exits with 1 where an answer differs.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).parent.parent.parent
PROMPTS, LONGEST = 100, 24


def prompts() -> list[tuple[Any, ...]]:
    """Iris questions, every second one behind two to six demos."""
    from harness.prompt import chat
    from harness.state import Demo, Prompt
    from programs.iris import classify
    from suites.test_iris import iris_splits

    signature = classify.signature
    fields = [field.name for field in signature.inputs]
    splits, rng = iris_splits(), Random(0)

    def inputs(row: dict[str, Any]) -> dict[str, Any]:
        return {name: row[name] for name in fields}

    def demo(row: dict[str, Any]) -> Demo:
        return Demo(inputs(row), {signature.outputs[0].name: row["species"]})

    rows = rng.sample(splits["validation"] + splits["test"], PROMPTS)
    made = []
    for number, row in enumerate(rows):
        demos = rng.sample(splits["train"], rng.randint(2, 6)) if number % 2 else []
        made.append(chat(signature, Prompt(demos=tuple(map(demo, demos))), inputs(row)))
    return made


def adapter_for(folder: str, adapters: Any) -> str:
    """Tune the model on Iris for a short while; the adapter's digest."""
    from harness.lm.local import LocalProvider
    from harness.lm.request import LMRef
    from harness.prompt import chat
    from harness.state import Prompt
    from harness.train.job import ChatExample, LoraSettings, TrainingJob
    from programs.iris import classify
    from suites.test_iris import iris_splits

    signature = classify.signature
    examples = tuple(
        ChatExample(
            chat(signature, Prompt(), {field.name: row[field.name] for field in signature.inputs}),
            f"{signature.outputs[0].name}: {row['species']}",
        )
        for row in iris_splits()["train"]
    )
    provider = LocalProvider(f"local/{folder}", adapters, loader="transformers")
    job = TrainingJob(LMRef(provider.model), examples, LoraSettings(epochs=1, min_steps=30), 0)
    try:
        return provider.train(job, adapters).adapter
    finally:
        provider.close()


async def from_server(base_url: str, name: str, chats: list[tuple[Any, ...]], adapter: Path | None) -> list[str]:
    import httpx

    async with httpx.AsyncClient(timeout=300) as client:
        room = asyncio.Semaphore(16)
        if adapter is not None:
            name, body = adapter.name, {"lora_name": adapter.name, "lora_path": str(adapter)}
            (await client.post(f"{base_url}/load_lora_adapter", json=body)).raise_for_status()

        async def ask(chat: tuple[Any, ...]) -> str:
            body = {
                "model": name,
                "messages": [{"role": turn.role, "content": turn.content} for turn in chat],
                "temperature": 0,
                "max_tokens": LONGEST,
            }
            async with room:
                answer = await client.post(f"{base_url}/chat/completions", json=body)
            answer.raise_for_status()
            return str(answer.json()["choices"][0]["message"]["content"])

        return list(await asyncio.gather(*map(ask, chats)))


def from_transformers(folder: str, chats: list[tuple[Any, ...]], adapter: Path | None) -> list[str]:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from harness.train.loader import quiet

    with quiet():
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        if adapter is not None:
            model = PeftModel.from_pretrained(model, str(adapter)).eval()
    said = []
    for chat in chats:
        turns = [{"role": turn.role, "content": turn.content} for turn in chat]
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        made = model.generate(**ids, max_new_tokens=LONGEST, do_sample=False)
        said.append(tokenizer.decode(made[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))
    return said


def from_engine(folder: str, chats: list[tuple[Any, ...]], adapters: Any, digest: str | None) -> list[str]:
    from harness.lm.local import LocalProvider
    from harness.lm.request import LMRef, Request, Sampling

    provider = LocalProvider(f"local/{folder}", adapters, loader="transformers")

    async def answers() -> list[str]:
        requests = [Request(LMRef(provider.model, digest), chat, Sampling(max_tokens=LONGEST)) for chat in chats]
        return [done.text for done in await asyncio.gather(*map(provider.complete, requests))]

    try:
        return asyncio.run(answers())
    finally:
        provider.close()


def main(base_url: str, name: str, folder: str) -> int:
    from harness.train.adapters import Adapters

    chats = prompts()
    differing = 0
    with tempfile.TemporaryDirectory() as scratch:
        adapters = Adapters(Path(scratch) / "adapters")
        for digest in (None, adapter_for(folder, adapters)):
            path = adapters.path(digest).resolve() if digest is not None else None
            reference = from_transformers(folder, chats, path)
            found = {
                "vLLM": asyncio.run(from_server(base_url, name, chats, path)),
                "the local engine": from_engine(folder, chats, adapters, digest),
            }
            with_what = "with an adapter" if digest else "without adapter"
            for engine, said in found.items():
                unlike = [at for at, (ours, theirs) in enumerate(zip(said, reference, strict=True)) if ours != theirs]
                differing += len(unlike)
                same = len(chats) - len(unlike)
                print(f"{with_what}, {engine}: {same} of {len(chats)} greedy answers are those of transformers")
                for at in unlike[:3]:
                    print(f"  prompt {at}: {said[at]!r}, transformers {reference[at]!r}")
    return int(differing > 0)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main(*sys.argv[1:4]))
