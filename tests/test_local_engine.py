"""The LM in this process: what a call gets must not depend on which calls run beside it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from harness.errors import AdapterError, ContextTooLongError, InvalidRequestError, LMError, UnknownModelError
from harness.lm.batches import Limits, Row, plan
from harness.lm.encode import encode_prompt
from harness.lm.local import LocalProvider
from harness.lm.request import Completion, LMRef, Message, Request, Sampling
from harness.train.adapters import Adapters
from harness.train.loader import LoadedModel, quiet
from tests.tiny_llama import CHAT_TEMPLATE, make_tiny_llama

WORDS = [
    "petal",
    "sepal",
    "width",
    "length",
    "setosa",
    "virginica",
    "versicolor",
    "1.4",
    "5.1",
    "question",
    "the",
    "of",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("model") / "tiny", context=512)


@pytest.fixture(scope="module")
def adapters(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Adapters:
    kept = Adapters(tmp_path_factory.mktemp("kept") / "adapters")
    for seed in range(3):
        make_adapter(folder, kept, seed)
    return kept


@pytest.fixture(scope="module")
def digests(adapters: Adapters) -> list[str]:
    return sorted(path.name for path in adapters.folder.iterdir())


@pytest.fixture(scope="module")
def provider(folder: Path, adapters: Adapters) -> Iterator[LocalProvider]:
    made = LocalProvider(f"local/{folder}", adapters)
    yield made
    made.close()


def make_adapter(folder: Path, adapters: Adapters, seed: int) -> str:
    """Random LoRA weights that change what the model says."""
    import tempfile

    import torch
    from safetensors.torch import save_file

    config = json.loads((folder / "config.json").read_text())
    hidden, layers, rank = config["hidden_size"], config["num_hidden_layers"], 2 + seed
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for layer in range(layers):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        weights[f"{name}.lora_A.weight"] = torch.randn(rank, hidden, generator=generator)
        weights[f"{name}.lora_B.weight"] = torch.randn(hidden, rank, generator=generator)
    with tempfile.TemporaryDirectory() as scratch:
        save_file(weights, Path(scratch) / "adapter_model.safetensors", metadata={"format": "pt"})
        (Path(scratch) / "adapter_config.json").write_text(
            json.dumps(
                {
                    "peft_type": "LORA",
                    "task_type": "CAUSAL_LM",
                    "r": rank,
                    "lora_alpha": 8,
                    "target_modules": ["q_proj"],
                }
            )
        )
        return adapters.adopt(Path(scratch))


def request(
    text: str,
    *,
    system: str | None = None,
    adapter: str | None = None,
    rollout: int = 0,
    seed: int = 0,
    temperature: float = 0.0,
    top_p: float = 1.0,
    max_tokens: int = 10,
    stop: tuple[str, ...] = (),
) -> Request:
    messages = (*((Message("system", system),) if system else ()), Message("user", text))
    return Request(
        LMRef("local/tiny", adapter), messages, Sampling(temperature, top_p, max_tokens, stop), rollout, seed
    )


def ask(provider: LocalProvider, requests: Sequence[Request]) -> list[Completion]:
    async def all_of_them() -> list[Completion]:
        return list(await asyncio.gather(*(provider.complete(one) for one in requests)))

    return asyncio.run(all_of_them())


def texts(completions: Sequence[Completion]) -> list[str]:
    return [completion.text for completion in completions]


def sentence(rng: Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words))


def varied(digests: Sequence[str], count: int = 40) -> list[Request]:
    """Calls of many lengths, adapters and sampling settings, half of them behind three long common prefixes."""
    rng = Random(1)
    systems = [sentence(rng, 40), sentence(rng, 60), sentence(rng, 20), None, None]
    return [
        request(
            sentence(rng, rng.randint(1, 25)),
            system=systems[index % 5],
            adapter=rng.choice([None, *digests]),
            rollout=index,
            temperature=rng.choice([0.0, 0.0, 0.7, 1.3]),
            top_p=rng.choice([1.0, 0.9]),
            max_tokens=rng.randint(1, 14),
            stop=rng.choice([(), ("e",), ("zzz", " the")]),
        )
        for index in range(count)
    ]


def test_a_batch_answers_as_single_calls_do(provider: LocalProvider, digests: list[str]) -> None:
    requests = varied(digests)
    single = [ask(provider, [one])[0] for one in requests]
    together = ask(provider, requests)
    assert texts(together) == texts(single)
    assert [one.usage for one in together] == [one.usage for one in single]
    assert [one.finish for one in together] == [one.finish for one in single]
    assert {one.finish for one in together} == {"stop", "length"}
    reverse = ask(provider, requests[::-1])
    assert texts(reverse[::-1]) == texts(single)


def test_shared_prefixes_change_nothing(folder: Path, adapters: Adapters, digests: list[str]) -> None:
    requests = varied(digests, 30)
    outcomes = []
    for share in (True, False):
        made = LocalProvider(f"local/{folder}", adapters)
        ask(made, requests[:1])
        assert made._engine._decoder is not None
        assert made._engine._decoder.can_share
        made._engine._decoder.can_share = share
        outcomes.append(texts(ask(made, requests)))
        made.close()
    assert outcomes[0] == outcomes[1]


def test_it_says_what_transformers_generates(folder: Path, provider: LocalProvider) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in ("setosa", "a longer question: 5.1 of the petal width"):
        prompt = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        ids = tokenizer(prompt, return_tensors="pt")
        made = model.generate(**ids, max_new_tokens=12, do_sample=False)
        expected = tokenizer.decode(made[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        answer = ask(provider, [request(text, max_tokens=12)])[0]
        assert answer.text == expected
        assert answer.usage.prompt_tokens == ids["input_ids"].shape[1]
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("kind", ["MistralConfig", "GPT2Config"])
def test_other_architectures(folder: Path, tmp_path: Path, kind: str) -> None:
    """Layers that see a window alone must not get a shared prefix; learned positions must not run over."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    sizes: dict[str, Any] = {"vocab_size": len(tokenizer), "initializer_range": 0.2, **ends}
    if kind == "MistralConfig":
        sizes |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        sizes |= {"num_key_value_heads": 1, "max_position_embeddings": 128, "sliding_window": 24}
    else:
        sizes |= {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(getattr(transformers, kind)(**sizes)).eval()
    with quiet():
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
    system = sentence(Random(2), 20)
    requests = [request(word, system=system) for word in WORDS]
    made = LocalProvider(f"local/{tmp_path}")
    answers = texts(ask(made, requests))
    assert made._engine._decoder is not None
    assert made._engine._decoder.can_share == (kind == "GPT2Config")
    full = ask(made, [request("a b " * 20, max_tokens=500, rollout=index) for index in range(3)])
    made.close()
    assert all(one.usage.prompt_tokens + one.usage.completion_tokens <= 128 for one in full)
    for one, answer in zip(requests, answers, strict=True):
        ids = torch.tensor([encode_prompt(tokenizer, one.messages)])
        said = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False)
        assert tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True) == answer


def test_long_rows_do_not_change_how_short_ones_are_read(folder: Path, tmp_path: Path) -> None:
    """LongRoPE turns the positions of a whole batch otherwise where its longest row is beyond a border."""
    import torch
    from transformers import AutoTokenizer, Phi3Config, Phi3ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 1, "vocab_size": len(tokenizer), "initializer_range": 0.2}
    rope: dict[str, Any] = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 64}
    rope |= {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    lengths = {"max_position_embeddings": 512, "original_max_position_embeddings": 64}
    torch.manual_seed(0)
    config = Phi3Config(**sizes, **ends, **lengths, rope_parameters=rope)
    with quiet():
        Phi3ForCausalLM(config).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
    system = sentence(Random(2), 20)
    requests = [request(sentence(Random(n), 1 + 7 * n), max_tokens=40 if n % 2 else 8) for n in range(8)]
    requests += [request(word, system=system, max_tokens=20) for word in WORDS[:4]]
    made = LocalProvider(f"local/{tmp_path}")
    single = [ask(made, [one])[0] for one in requests]
    assert texts(ask(made, requests)) == texts(single)
    made.close()
    # Below, across and beyond.
    prompts = [one.usage.prompt_tokens for one in single]
    assert min(prompts) < 24
    assert any(24 < prompt <= 64 for prompt in prompts)
    assert max(prompts) > 64


def test_samples_differ_by_rollout_and_seed_and_repeat(provider: LocalProvider) -> None:
    def drawn(**changes: Any) -> str:
        return ask(provider, [request("setosa", temperature=1.0, **changes)])[0].text

    assert drawn() == drawn()
    assert len({drawn(), drawn(rollout=1), drawn(rollout=2), drawn(seed=1)}) == 4


def test_samples_follow_the_distribution() -> None:
    import torch

    from harness.lm.generate import _Sampler

    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    rows = [Row([1], temperature=1.0, max_new=1, seed=seed) for seed in range(4000)]
    drawn = _Sampler(rows, torch.device("cpu")).pick(logits.expand(4000, -1), 0)
    shares = torch.bincount(drawn, minlength=4) / 4000
    assert torch.allclose(shares, torch.tensor([0.5, 0.3, 0.15, 0.05]), atol=0.03)
    rows = [Row([1], temperature=1.0, top_p=0.7, max_new=1, seed=seed) for seed in range(4000)]
    shares = torch.bincount(_Sampler(rows, torch.device("cpu")).pick(logits.expand(4000, -1), 0), minlength=4) / 4000
    assert torch.allclose(shares, torch.tensor([0.625, 0.375, 0.0, 0.0]), atol=0.03)


def test_a_stop_string_ends_the_text_before_it(provider: LocalProvider) -> None:
    whole = ask(provider, [request("setosa", max_tokens=30)])[0]
    middle = whole.text[len(whole.text) // 2 :][:3]
    cut = ask(provider, [request("setosa", max_tokens=30, stop=("never there", middle))])[0]
    assert cut.text == whole.text[: whole.text.index(middle)]
    assert cut.finish == "stop"
    assert 0 < cut.usage.completion_tokens < whole.usage.completion_tokens


def test_max_tokens_bounds_the_completion(provider: LocalProvider) -> None:
    answer = ask(provider, [request("setosa", max_tokens=3)])[0]
    assert answer.finish == "length"
    assert answer.usage.completion_tokens == 3


def test_an_end_of_turn_stops(provider: LocalProvider) -> None:
    # A hot sampler meets the end of turn soon; the text must not show it.
    answers = ask(provider, [request("x", temperature=3.0, rollout=index, max_tokens=400) for index in range(8)])
    stopped = [one for one in answers if one.finish == "stop"]
    assert stopped
    assert all("<|" not in one.text for one in answers)
    assert all(one.usage.completion_tokens <= 400 for one in answers)


def test_an_end_of_turn_that_is_no_special_token_is_no_text(tmp_path: Path) -> None:
    folder = make_tiny_llama(tmp_path / "m")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    for token in tokenizer["added_tokens"]:
        token["special"] &= token["content"] != "<|im_end|>"
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"eos_token": "<|endoftext|>", "extra_special_tokens": ["<|im_start|>"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    made = LocalProvider(f"local/{folder}")
    answers = ask(made, [request("x", temperature=3.0, rollout=index, max_tokens=400) for index in range(8)])
    made.close()
    assert any(one.finish == "stop" for one in answers)
    assert all("<|im_end|>" not in one.text for one in answers)


def test_a_prompt_that_fills_the_context_is_refused(provider: LocalProvider) -> None:
    with pytest.raises(ContextTooLongError, match=r"has \d+ tokens and .* reads 512 in all"):
        ask(provider, [request("petal " * 600)])


def test_a_completion_ends_at_the_context(provider: LocalProvider) -> None:
    answer = ask(provider, [request("é" * 240, max_tokens=2000)])[0]
    assert answer.usage.prompt_tokens + answer.usage.completion_tokens <= 512
    assert answer.finish == "length" or answer.usage.prompt_tokens + answer.usage.completion_tokens < 512


def test_one_bad_call_fails_alone(provider: LocalProvider, digests: list[str]) -> None:
    requests = [request("a", adapter=digests[0]), request("b", adapter="0" * 32), request("petal " * 600), request("c")]

    async def all_of_them() -> list[Any]:
        return list(await asyncio.gather(*(provider.complete(one) for one in requests), return_exceptions=True))

    good, missing, long, base = asyncio.run(all_of_them())
    assert isinstance(good, Completion)
    assert isinstance(missing, AdapterError)
    assert isinstance(long, ContextTooLongError)
    assert isinstance(base, Completion)


def test_a_failing_forward_pass_fails_the_calls_that_cause_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = LocalProvider(f"local/{folder}")
    expected = texts(ask(made, [request(text) for text in "abc"]))
    decoder = made._engine._decoder
    assert decoder is not None
    run = decoder.run

    def failing(rows: Sequence[Row], batch: Any, *rest: Any) -> None:
        if any(rows[index].max_new == 7 for index in batch.rows):
            raise RuntimeError("no memory")
        run(rows, batch, *rest)

    monkeypatch.setattr(decoder, "run", failing)

    async def all_of_them() -> list[Any]:
        requests = [request("a"), request("b"), request("x", max_tokens=7), request("c")]
        return list(await asyncio.gather(*(made.complete(one) for one in requests), return_exceptions=True))

    first, second, bad, third = asyncio.run(all_of_them())
    assert texts([first, second, third]) == expected
    assert isinstance(bad, LMError)
    assert "no memory" in str(bad)
    made.close()


def test_a_mixed_batch_that_fails_leaves_nothing_behind_in_the_layers(
    folder: Path, adapters: Adapters, digests: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls of one adapter after it, as many as it had rows, must not be computed with its rows' adapters."""
    made = LocalProvider(f"local/{folder}", adapters)
    alone = [request(word, adapter=digests[0]) for word in WORDS[:8]]
    mixed = [request(word, adapter=digests[index % 2]) for index, word in enumerate(WORDS[:8])]
    expected, expected_mixed = texts(ask(made, alone)), texts(ask(made, mixed))
    assert made._engine._served is not None
    layer = made._engine._served.base.model.layers[1]
    forward = layer.forward
    failed: list[int] = []

    def failing(hidden: Any, *rest: Any, **named: Any) -> Any:
        if not failed and len(hidden) == 8:
            failed.append(len(hidden))
            raise RuntimeError("out of memory, once")
        return forward(hidden, *rest, **named)

    monkeypatch.setattr(layer, "forward", failing)
    assert texts(ask(made, mixed)) == expected_mixed
    assert failed
    assert texts(ask(made, alone)) == expected
    made.close()


def test_halves_are_tried_when_the_failed_batchs_memory_is_free(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = LocalProvider(f"local/{folder}")
    ask(made, [request("a")])
    decoder, served = made._engine._decoder, made._engine._served
    assert decoder is not None
    assert served is not None
    caches: list[weakref.ref[Any]] = []
    kept: list[int] = []
    run, new_cache = decoder.run, decoder._new_cache

    def noted(**options: Any) -> Any:
        cache = new_cache(**options)
        caches.append(weakref.ref(cache))
        return cache

    def counting(*arguments: Any) -> None:
        kept.append(sum(cache() is not None for cache in caches))
        run(*arguments)

    def failing(*_: Any, **__: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(decoder, "run", counting)
    monkeypatch.setattr(decoder, "_new_cache", noted)
    monkeypatch.setattr(served.base.model.layers[1], "forward", failing)

    async def all_of_them() -> list[Any]:
        requests = [request(word) for word in WORDS[:4]]
        return list(await asyncio.gather(*(made.complete(one) for one in requests), return_exceptions=True))

    errors = asyncio.run(all_of_them())
    assert kept == [0] * 7
    assert all(isinstance(error, LMError) for error in errors)
    assert not any(cache() for cache in caches), "the errors that callers have keep memory"
    made.close()


def test_a_damaged_adapter_is_named(folder: Path, tmp_path: Path) -> None:
    kept = Adapters(tmp_path / "adapters")
    digest = make_adapter(folder, kept, 5)
    weights = kept.folder / digest / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    made = LocalProvider(f"local/{folder}", Adapters(kept.folder))
    with pytest.raises(AdapterError, match="truncated"):
        ask(made, [request("a", adapter=digest)])
    made.close()


def test_an_adapter_that_was_deleted_meanwhile_is_named_every_time(folder: Path, tmp_path: Path) -> None:
    kept = Adapters(tmp_path / "adapters")
    digest = make_adapter(folder, kept, 5)
    (kept.path(digest) / "adapter_model.safetensors").unlink()
    made = LocalProvider(f"local/{folder}", kept)
    for _ in range(2):
        with pytest.raises(AdapterError, match="cannot be read"):
            ask(made, [request("a", adapter=digest)])
    made.close()


def test_an_adapter_of_another_model_is_refused_and_does_no_harm(folder: Path, tmp_path: Path) -> None:
    other = make_tiny_llama(tmp_path / "other", hidden=32, heads=2, kv_heads=1)
    kept = Adapters(tmp_path / "adapters")
    wrong, right = make_adapter(other, kept, 1), make_adapter(folder, kept, 1)
    made = LocalProvider(f"local/{folder}", kept)
    before = texts(ask(made, [request("a"), request("b")]))
    with pytest.raises(AdapterError, match="does not fit the model"):
        ask(made, [request("a", adapter=wrong)])
    assert texts(ask(made, [request("a"), request("b")])) == before
    assert texts(ask(made, [request("a", adapter=right)])) != before[:1]
    assert texts(ask(made, [request("a"), request("b")])) == before
    made.close()


def test_adapters_beyond_the_number_kept_are_dropped_and_come_back(
    provider: LocalProvider, digests: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = [ask(provider, [request("a", adapter=digest)])[0].text for digest in digests]
    served = provider._engine._served
    assert served is not None
    monkeypatch.setattr(served, "_kept", 1)
    again = [ask(provider, [request("a", adapter=digest)])[0].text for digest in digests]
    assert again == first
    assert served.adapters == (digests[-1],)
    assert texts(ask(provider, [request("a", adapter=digest) for digest in digests])) == first


def test_loading_an_adapter_leaves_the_global_generator_alone(
    folder: Path, adapters: Adapters, digests: list[str]
) -> None:
    import torch

    made = LocalProvider(f"local/{folder}", adapters)
    torch.manual_seed(0)
    ask(made, [request("a", adapter=digests[0], temperature=1.0)])
    drawn = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(3))
    made.close()


def test_cancelled_and_late_calls(folder: Path) -> None:
    made = LocalProvider(f"local/{folder}")

    async def cancelled() -> str:
        task = asyncio.create_task(made.complete(request("a", max_tokens=300)))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return (await made.complete(request("b"))).text

    assert asyncio.run(cancelled())
    made.close()
    made.close()
    with pytest.raises(LMError, match="closed"):
        ask(made, [request("a")])


def test_closing_fails_what_is_under_way(folder: Path) -> None:
    made = LocalProvider(f"local/{folder}")
    ask(made, [request("a", max_tokens=1)])

    async def closed() -> list[Any]:
        tasks = [
            asyncio.create_task(made.complete(request("a", rollout=index, temperature=0.1, max_tokens=450)))
            for index in range(200)
        ]
        await asyncio.sleep(0.05)
        threading.Thread(target=made.close).start()
        return list(await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30))

    outcomes = asyncio.run(closed())
    assert any(isinstance(one, LMError) for one in outcomes)
    assert all(isinstance(one, LMError | Completion) for one in outcomes)


def test_calls_from_many_loops_at_once(provider: LocalProvider) -> None:
    expected = texts(ask(provider, [request(word) for word in WORDS]))
    found: dict[int, list[str]] = {}

    def one_loop(index: int) -> None:
        found[index] = texts(ask(provider, [request(word) for word in WORDS]))

    threads = [threading.Thread(target=one_loop, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(4), expected)


def test_the_identity_needs_neither_torch_nor_transformers(folder: Path) -> None:
    code = (
        "import sys; from harness.lm.local import LocalProvider; from harness.train.adapters import Adapters\n"
        f"from pathlib import Path; p = LocalProvider('local/{folder}', Adapters(Path('nowhere')))\n"
        "print(p.identity()); p.close()\n"
        "print(sorted({'torch', 'transformers', 'peft', 'trl', 'numpy', 'huggingface_hub'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    identity, heavy = ran.stdout.splitlines()
    assert heavy == "[]"
    assert identity == LocalProvider(f"local/{folder}").identity()


def test_the_identity_follows_the_files(tmp_path: Path) -> None:
    folder = make_tiny_llama(tmp_path / "m", hidden=16, heads=2, kv_heads=1, layers=1)
    before = LocalProvider(f"local/{folder}").identity()
    (folder / "README.md").write_text("no part of the model")
    assert LocalProvider(f"local/{folder}").identity() == before
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert LocalProvider(f"local/{folder}").identity() != before


@pytest.mark.parametrize(
    "model", ["local/", "nano", "local/./nowhere", "local//nowhere/at/all", "local/../x", "local/a b"]
)
def test_an_unknown_model_is_named_with_a_remedy(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")  # beside a checkout there may be a folder of that name
    with pytest.raises(UnknownModelError, match="local/nano"):
        LocalProvider(model)


def test_pickled_weights_are_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UnknownModelError, match=r"no safetensors weights.*pickled weights are not loaded"):
        LocalProvider(f"local/{tmp_path}")


@pytest.mark.parametrize("left_out", ["model-00002-of-00002.safetensors", "model.safetensors.index.json"])
def test_a_download_that_was_interrupted_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left_out: str
) -> None:
    import huggingface_hub

    snapshot = tmp_path / ("a" * 40)
    snapshot.mkdir()
    parts = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    files = {"config.json": "{}", **dict.fromkeys(parts, "")}
    files["model.safetensors.index.json"] = json.dumps({"weight_map": {"a": parts[0], "b": parts[1], "c": parts[1]}})
    downloads: list[str] = []

    def snapshot_download(hub_id: str, *, local_files_only: bool = False, **_: Any) -> str:
        if not local_files_only:
            downloads.append(hub_id)
            (snapshot / left_out).write_text(files[left_out])
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    for name in files.keys() - {left_out}:
        (snapshot / name).write_text(files[name])
    with pytest.raises(UnknownModelError, match=f"has no .*{left_out}"):
        LocalProvider(f"local/{snapshot}")
    for _ in range(2):
        assert LocalProvider("local/org/big").identity() == f"local/org/big@{'a' * 32}"
    assert downloads == ["org/big"]


def test_weights_are_downloaded_in_one_format(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mistral-7B-Instruct-v0.3 and gpt-oss-20b have them twice, which would be some 14 GB more."""
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    wanted = ["config.json", "tokenizer.json", "model-00001-of-00001.safetensors"]
    there = [*wanted, "consolidated.safetensors", "original/model.safetensors", "pytorch_model.bin"]
    taken: list[str] = []

    def snapshot_download(_: str, *, allow_patterns: list[str], ignore_patterns: list[str], **_more: Any) -> str:
        taken[:] = filter_repo_objects(there, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns)
        raise ValueError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(UnknownModelError):
        LocalProvider("local/org/twice").identity()
    assert taken == wanted


def test_a_model_that_cannot_be_loaded_fails_its_calls(tmp_path: Path) -> None:
    folder = make_tiny_llama(tmp_path / "m", hidden=16, heads=2, kv_heads=1, layers=1)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    made = LocalProvider(f"local/{folder}")
    with pytest.raises(UnknownModelError, match="cannot be loaded"):
        ask(made, [request("a")])
    made.close()


def test_a_base_model_without_chat_template_is_named(tmp_path: Path) -> None:
    (make_tiny_llama(tmp_path / "m") / "chat_template.jinja").unlink()
    made = LocalProvider(f"local/{tmp_path / 'm'}")
    with pytest.raises(UnknownModelError, match="has no chat template") as raised:
        ask(made, [request("x")])
    assert "memory" not in str(raised.value)
    made.close()


def test_a_model_that_does_not_fit_into_memory_is_loaded_once(folder: Path) -> None:
    loads: list[Path] = []
    held: list[weakref.ref[Any]] = []

    def load(folder: Path) -> LoadedModel:
        loads.append(folder)
        half = {folder}
        held.append(weakref.ref(half))
        raise RuntimeError("CUDA out of memory. Tried to allocate 15 GiB.")

    made = LocalProvider(f"local/{folder}", loader=load)

    async def all_of_them() -> list[Any]:
        asked = [made.complete(request(word)) for word in WORDS]
        return list(await asyncio.gather(*asked, return_exceptions=True))

    errors = asyncio.run(all_of_them()) + asyncio.run(all_of_them())
    assert loads == [folder]
    assert len(set(map(id, errors))) == 2 * len(WORDS)
    for error in errors:
        assert isinstance(error, UnknownModelError)
        assert error.fatal
        assert "cannot be loaded: RuntimeError: CUDA out of memory" in str(error)
        assert "use a smaller model" in str(error)
        assert isinstance(error.__cause__, RuntimeError)
    assert held[0]() is None, "the half of the model that had been loaded stays in memory"
    made.close()


def test_a_template_without_system_role_gets_the_system_text_in_the_first_turn(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        + CHAT_TEMPLATE
    )
    folder = make_tiny_llama(tmp_path / "m", hidden=16, heads=2, kv_heads=1, layers=1, chat_template=template)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = encode_prompt(tokenizer, [Message("system", "Be brief."), Message("user", "Why?")])
    assert tokenizer.decode(ids) == "<|im_start|>user\nBe brief.\n\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    with pytest.raises(InvalidRequestError, match="System role not supported"):
        encode_prompt(tokenizer, [Message("system", "Be brief.")])
    tokenizer.chat_template = None
    with pytest.raises(InvalidRequestError, match="no chat template"):
        encode_prompt(tokenizer, [Message("user", "Why?")])


def test_every_row_is_planned_once_within_the_limits() -> None:
    rng = Random(0)
    for trial in range(60):
        prefixes = [[rng.randrange(50) for _ in range(rng.randint(5, 90))] for _ in range(4)]
        rows = [
            Row(
                [*rng.choice([[], *prefixes]), *(rng.randrange(50) for _ in range(rng.randint(1, 30)))],
                rng.choice([None, "a", "b"]),
            )
            for _ in range(rng.randint(1, 50))
        ]
        limits = Limits(rows=rng.randint(1, 20), tokens=rng.randint(50, 900), cached=rng.randint(200, 4000))
        batches = plan(rows, limits, share=trial % 4 != 0)
        assert sorted(index for batch in batches for index in batch.rows) == list(range(len(rows)))
        for batch in batches:
            assert 1 <= len(batch.rows) <= limits.rows
            if not batch.groups:
                width = max(len(rows[index].ids) for index in batch.rows)
                assert len(batch.rows) == 1 or len(batch.rows) * width <= limits.tokens
                continue
            assert sum(count for _, count in batch.groups) == len(batch.rows)
            at = 0
            for prefix, count in batch.groups:
                members = [rows[index] for index in batch.rows[at : at + count]]
                at += count
                assert len({(row.adapter, tuple(row.ids[:prefix])) for row in members}) == 1
                assert all(len(row.ids) > prefix >= 16 for row in members)


def test_a_common_prefix_is_found() -> None:
    head, other = list(range(100)), list(range(200, 280))
    rows = (
        [Row([*head, index]) for index in range(10)] + [Row([*other, 1, index]) for index in range(5)] + [Row([7, 7])]
    )
    batches = plan(rows, Limits())
    assert sorted(group for batch in batches for group in batch.groups) == [(81, 5), (100, 10)]
    assert sum(len(batch.rows) for batch in batches if not batch.groups) == 1
