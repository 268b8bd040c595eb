"""Greedy answers of one model under vLLM, under transformers' own ``generate`` and under the local engine.

``python tests/engines/vllm_parity.py BASE_URL NAME FOLDER``: the server at BASE_URL serves the model in FOLDER as
NAME, in float32. 100 chats, half of them with demos. Exits with 1 where an answer differs.
"""

from __future__ import annotations

import asyncio
import sys
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


async def from_server(base_url: str, name: str, chats: list[tuple[Any, ...]]) -> list[str]:
    import httpx

    async with httpx.AsyncClient(timeout=300) as client:
        room = asyncio.Semaphore(16)

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


def from_transformers(folder: str, chats: list[tuple[Any, ...]]) -> list[str]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from harness.train.loader import quiet

    with quiet():
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    said = []
    for chat in chats:
        turns = [{"role": turn.role, "content": turn.content} for turn in chat]
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        made = model.generate(**ids, max_new_tokens=LONGEST, do_sample=False)
        said.append(tokenizer.decode(made[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))
    return said


def from_engine(folder: str, chats: list[tuple[Any, ...]]) -> list[str]:
    from harness.lm.local import LocalProvider
    from harness.lm.request import LMRef, Request, Sampling

    provider = LocalProvider(f"local/{folder}", loader="transformers")

    async def answers() -> list[str]:
        requests = [Request(LMRef(provider.model), chat, Sampling(max_tokens=LONGEST)) for chat in chats]
        return [done.text for done in await asyncio.gather(*map(provider.complete, requests))]

    try:
        return asyncio.run(answers())
    finally:
        provider.close()


def main(base_url: str, name: str, folder: str) -> int:
    chats = prompts()
    reference = from_transformers(folder, chats)
    found = {"vLLM": asyncio.run(from_server(base_url, name, chats)), "the local engine": from_engine(folder, chats)}
    differing = 0
    for engine, said in found.items():
        unlike = [at for at, (ours, theirs) in enumerate(zip(said, reference, strict=True)) if ours != theirs]
        differing += len(unlike)
        print(f"{engine}: {len(chats) - len(unlike)} of {len(chats)} greedy answers are those of transformers")
        for at in unlike[:3]:
            print(f"  prompt {at}: {said[at]!r}, transformers {reference[at]!r}")
    return int(differing > 0)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main(*sys.argv[1:4]))
