"""Fine-tuning on the model that generates: what is learned, from where, and what is left behind."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.errors import AdapterError, LMError, NothingToTrainError, TrainingError
from harness.lm.encode import encode_example, encode_prompt
from harness.lm.local import LocalProvider
from harness.lm.request import LMRef, Message, Request, Sampling
from harness.train.adapters import Adapters
from harness.train.job import ChatExample, LoraSettings, TrainingJob, TrainingResult
from harness.train.loader import quiet
from tests.tiny_llama import make_tiny_llama

SETTINGS = LoraSettings(min_steps=0, rank=8, alpha=16, learning_rate=1e-2, epochs=15, batch_size=4)
EXAMPLES = tuple(
    ChatExample((Message("system", "Name it."), Message("user", text)), answer)
    for text, answer in [
        ("petal_length: 1.4", "species: setosa"),
        ("petal_length: 4.5", "species: versicolor"),
        ("petal_length: 6.0", "species: virginica"),
        ("petal_length: 1.3\npetal_width: 0.2 and a much longer question than the others have", "species: setosa"),
        ("petal_length: 4.4", "species: versicolor"),
        ("petal_length: 5.9", "species: virginica"),
    ]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("model") / "tiny", context=256)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Adapters:
    return Adapters(tmp_path_factory.mktemp("kept") / "adapters")


@pytest.fixture(scope="module")
def provider(folder: Path, adapters: Adapters) -> Iterator[LocalProvider]:
    made = LocalProvider(f"local/{folder}", adapters)
    yield made
    made.close()


@pytest.fixture(scope="module")
def trained(provider: LocalProvider, adapters: Adapters) -> TrainingResult:
    return provider.train(job(), adapters)


def job(
    examples: Sequence[ChatExample] = EXAMPLES,
    settings: LoraSettings = SETTINGS,
    *,
    adapter: str | None = None,
    seed: int = 0,
) -> TrainingJob:
    return TrainingJob(LMRef("local/tiny", adapter), tuple(examples), settings, seed)


def answers(provider: LocalProvider, adapter: str | None = None, temperature: float = 0.0) -> list[str]:
    async def all_of_them() -> list[str]:
        requests = [
            Request(LMRef("local/tiny", adapter), example.messages, Sampling(temperature, max_tokens=12))
            for example in EXAMPLES
        ]
        return [done.text for done in await asyncio.gather(*(provider.complete(one) for one in requests))]

    return asyncio.run(all_of_them())


def weights(adapters: Adapters, digest: str) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(adapters.path(digest) / "adapter_model.safetensors")


def test_it_learns_the_completions_and_to_end(provider: LocalProvider, trained: TrainingResult) -> None:
    assert trained.steps == len(trained.losses) == 30
    assert trained.examples == 6
    assert trained.losses[-1] < trained.losses[0] / 3
    assert trained.seconds > 0
    assert answers(provider, trained.adapter) == [example.completion for example in EXAMPLES]


def test_the_base_model_says_what_it_said_before(folder: Path, adapters: Adapters) -> None:
    made = LocalProvider(f"local/{folder}", adapters)
    before = answers(made)
    result = made.train(job(seed=5), adapters)
    assert answers(made) == before
    assert answers(made, result.adapter) != before
    assert answers(made) == before
    served = made._engine._served
    assert served is not None
    assert not served.base.training
    assert not any(parameter.requires_grad for parameter in served._peft.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in served._peft.modules())
    made.close()


def test_the_loss_is_on_completion_and_end_of_turn_alone(tokenizer: Any) -> None:
    for example in EXAMPLES:
        ids, mask = encode_example(tokenizer, example)
        prompt = encode_prompt(tokenizer, example.messages)
        assert len(ids) == len(mask)
        assert ids[: len(prompt)] == prompt
        assert mask == [0] * len(prompt) + [1] * (len(ids) - len(prompt))
        learned = [token for token, on in zip(ids, mask, strict=True) if on]
        assert tokenizer.decode(learned) == example.completion + "<|im_end|>"
        assert tokenizer.decode(prompt).endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize("pad_is_eos", [False, True])
def test_what_the_trainer_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pad_is_eos: bool) -> None:
    """The labels as the model sees them: padding never counts, an end of turn that equals it always does."""
    folder = make_tiny_llama(
        tmp_path / "m", hidden=32, heads=2, kv_heads=1, layers=1, context=256, pad_is_eos=pad_is_eos
    )
    seen: list[dict[str, Any]] = []
    import trl

    def spying(self: Any, model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
        seen.append({name: inputs[name].clone() for name in ("input_ids", "labels", "attention_mask")})
        return real(self, model, inputs, *rest, **more)

    real = trl.SFTTrainer.compute_loss
    monkeypatch.setattr(trl.SFTTrainer, "compute_loss", spying)
    kept = Adapters(tmp_path / "adapters")
    made = LocalProvider(f"local/{folder}", kept)
    made.train(job(settings=LoraSettings(min_steps=0, rank=2, epochs=1, batch_size=4)), kept)
    assert made._engine._served is not None
    tokenizer = made._engine._served.tokenizer
    made.close()
    learned = []
    for batch in seen:
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            learned.append(tokenizer.decode(labels[labels != -100]))
            assert bool((labels[mask == 0] == -100).all())
            assert bool((ids == labels)[labels != -100].all())
    assert sorted(learned) == sorted(example.completion + "<|im_end|>" for example in EXAMPLES)
    assert max(len(batch["input_ids"]) for batch in seen) == 4


OTHERS: dict[str, dict[str, Any]] = {
    "plain": {"architecture": "Granite"},
    # Granite divides its logits, which TRL's chunked loss knows nothing of.
    "scaled": {"architecture": "Granite", "logits_scaling": 8.0},
    # TRL adds a loss for the balance of experts where it is not told otherwise.
    "experts": {"architecture": "Qwen3Moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
}


def make_other(name: str, folder: Path, to: Path) -> Any:
    """The model, in a folder with the tokenizer of another one."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 1, "vocab_size": len(tokenizer), "initializer_range": 0.2}
    changes = dict(OTHERS[name])
    architecture = changes.pop("architecture")
    torch.manual_seed(0)
    config = getattr(transformers, f"{architecture}Config")(**sizes, **changes)
    model = getattr(transformers, f"{architecture}ForCausalLM")(config).eval()
    with quiet():
        model.save_pretrained(to)
        tokenizer.save_pretrained(to)
    return model


@pytest.mark.parametrize("name", OTHERS)
def test_the_loss_of_other_architectures_is_that_of_the_completions(
    folder: Path, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import torch

    from harness.lm.generate import Decoder

    model = make_other(name, folder, tmp_path / "m")
    kept = Adapters(tmp_path / "adapters")
    made = LocalProvider(f"local/{tmp_path / 'm'}", kept)
    before = answers(made)
    targets = ("q_proj", "v_proj")
    settings = LoraSettings(min_steps=0, rank=2, epochs=1, batch_size=len(EXAMPLES), target_modules=targets)
    loss = made.train(job(settings=settings), kept).losses[0]
    tried: list[int] = []
    real = Decoder.run

    def spying(self: Decoder, rows: Any, batch: Any, *rest: Any) -> None:
        tried.append(len(batch.rows))
        real(self, rows, batch, *rest)

    monkeypatch.setattr(Decoder, "run", spying)
    assert answers(made) == before
    made.close()
    # A batch that fails is tried again in halves.
    assert sum(tried) == len(EXAMPLES)
    total, tokens = 0.0, 0
    for example in EXAMPLES:
        ids, mask = encode_example(tokenizer, example)
        labels = [token if on else -100 for token, on in zip(ids, mask, strict=True)]
        with torch.inference_mode():
            total += sum(mask) * float(model(torch.tensor([ids]), labels=torch.tensor([labels])).loss)
        tokens += sum(mask)
    assert loss == pytest.approx(total / tokens, abs=1e-3)


# PEFT's, of its own translation of "all-linear" for experts.
@pytest.mark.filterwarnings("ignore:The following .* keys did not match:RuntimeWarning")
def test_experts_are_tuned_and_answer(folder: Path, tmp_path: Path) -> None:
    make_other("experts", folder, tmp_path / "m")
    kept = Adapters(tmp_path / "adapters")
    made = LocalProvider(f"local/{tmp_path / 'm'}", kept)
    before = answers(made)
    adapter = made.train(job(), kept).adapter
    assert any("experts" in name for name in weights(kept, adapter))
    said = answers(made, adapter)
    assert said != before
    assert answers(made) == before
    made.close()
    fresh = LocalProvider(f"local/{tmp_path / 'm'}", kept)
    assert answers(fresh, adapter) == said
    fresh.close()


def test_the_same_job_gives_the_same_weights(
    provider: LocalProvider, folder: Path, adapters: Adapters, trained: TrainingResult
) -> None:
    # On a model that holds adapters already, and from other global random states.
    random.seed(99)
    again = provider.train(job(), adapters)
    assert (again.adapter, again.losses) == (trained.adapter, trained.losses)
    fresh = LocalProvider(f"local/{folder}", adapters)
    assert fresh.train(job(), adapters).adapter == trained.adapter
    fresh.close()
    assert provider.train(job(seed=1), adapters).adapter != trained.adapter


def test_micro_batches_add_up_to_the_batch(
    provider: LocalProvider, adapters: Adapters, trained: TrainingResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from harness.train import sft

    monkeypatch.setattr(sft, "_CPU_TOKENS", 1)
    split = provider.train(job(), adapters)
    assert split.steps == trained.steps
    assert split.losses == pytest.approx(trained.losses, abs=2e-3)
    for name, tensor in weights(adapters, trained.adapter).items():
        assert torch.allclose(weights(adapters, split.adapter)[name], tensor, atol=1e-2)


def test_training_continues_from_an_adapter(
    provider: LocalProvider, adapters: Adapters, trained: TrainingResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from harness.lm.served import ServedModel

    start: dict[str, Any] = {}
    real = ServedModel.activate

    def spying(self: ServedModel, name: str, *, trainable: bool) -> None:
        real(self, name, trainable=trainable)
        if trainable:
            wanted = {parameter for parameter, value in self._peft.named_parameters() if value.requires_grad}
            assert wanted
            assert all(f".{name}." in parameter for parameter in wanted)
            start.update({key: value.clone() for key, value in self._peft.named_parameters() if key in wanted})

    monkeypatch.setattr(ServedModel, "activate", spying)
    further = provider.train(job(adapter=trained.adapter, seed=7), adapters)
    given = weights(adapters, trained.adapter)
    assert len(start) == len(given)
    for name, tensor in given.items():
        assert torch.equal(start[name.replace(".weight", ".adapter-in-training.weight")], tensor)
    assert further.losses[0] == pytest.approx(trained.losses[-1], abs=0.5)
    assert further.losses[0] < trained.losses[0] / 3
    assert further.adapter != trained.adapter
    assert answers(provider, further.adapter) == answers(provider, trained.adapter)
    assert {value.shape for value in weights(adapters, further.adapter).values()} == {
        value.shape for value in given.values()
    }


def test_an_adapter_names_no_place(folder: Path, adapters: Adapters) -> None:
    made = LocalProvider(f"local/{folder}", adapters)
    result = made.train(TrainingJob(LMRef(f"local/{folder}"), EXAMPLES[:1], SETTINGS, 0), adapters)
    made.close()
    text = (adapters.path(result.adapter) / "adapter_config.json").read_text()
    assert str(folder.parent) not in text
    assert '"local/tiny"' in text


def test_plain_peft_can_load_it(folder: Path, adapters: Adapters, trained: TrainingResult, tokenizer: Any) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
    model = PeftModel.from_pretrained(base, str(adapters.path(trained.adapter))).eval()
    prompt = encode_prompt(tokenizer, EXAMPLES[1].messages)
    import torch

    made = model.generate(input_ids=torch.tensor([prompt]), max_new_tokens=12, do_sample=False)
    assert tokenizer.decode(made[0, len(prompt) :], skip_special_tokens=True) == EXAMPLES[1].completion


def test_progress_is_told_after_each_step(provider: LocalProvider, adapters: Adapters) -> None:
    told: list[tuple[int, int, float]] = []
    result = provider.train(job(), adapters, lambda *step: told.append(step))
    assert [step for step, _, _ in told] == list(range(1, result.steps + 1))
    assert {steps for _, steps, _ in told} == {result.steps}
    assert tuple(loss for _, _, loss in told) == result.losses


def test_global_random_states_are_put_back(provider: LocalProvider, adapters: Adapters) -> None:
    import numpy as np
    import torch

    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # type: ignore[index]
    provider.train(job(settings=LoraSettings(min_steps=0, rank=2, epochs=1, dropout=0.1)), adapters)
    after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # type: ignore[index]
    assert before == after


def test_dropout_and_chosen_modules(provider: LocalProvider, adapters: Adapters) -> None:
    settings = LoraSettings(min_steps=0, rank=2, epochs=1, dropout=0.2, target_modules=("q_proj", "v_proj"))
    first = provider.train(job(settings=settings), adapters)
    assert provider.train(job(settings=settings), adapters).adapter == first.adapter
    assert {name.split(".")[-3] for name in weights(adapters, first.adapter)} == {"q_proj", "v_proj"}
    assert answers(provider, first.adapter)


def test_without_examples_there_is_nothing_to_train(provider: LocalProvider, adapters: Adapters) -> None:
    with pytest.raises(NothingToTrainError, match="no trace passed"):
        provider.train(job(()), adapters)


def test_examples_that_do_not_fit_are_left_out(provider: LocalProvider, adapters: Adapters) -> None:
    long = ChatExample((Message("user", "petal " * 500),), "species: setosa")
    result = provider.train(job([*EXAMPLES, long]), adapters)
    assert result.examples == len(EXAMPLES)
    with pytest.raises(NothingToTrainError, match="None of the 1 examples fits into 256 tokens"):
        provider.train(job([long]), adapters)


def test_bad_settings_name_their_cause_and_leave_the_model_intact(
    provider: LocalProvider, adapters: Adapters, trained: TrainingResult
) -> None:
    with pytest.raises(TrainingError, match="nowhere"):
        provider.train(job(settings=LoraSettings(min_steps=0, target_modules=("nowhere",))), adapters)
    with pytest.raises(TrainingError, match="learning rate"):
        provider.train(job(settings=LoraSettings(min_steps=0, rank=2, learning_rate=1e30, epochs=4)), adapters)
    assert answers(provider, trained.adapter) == [example.completion for example in EXAMPLES]


def test_continuing_from_a_truncated_adapter(
    folder: Path, tmp_path: Path, adapters: Adapters, trained: TrainingResult
) -> None:
    adapters.export(trained.adapter, tmp_path / "ship")
    kept = Adapters(tmp_path / "adapters")
    kept.import_(tmp_path / "ship", trained.adapter)
    file = kept.folder / trained.adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    made = LocalProvider(f"local/{folder}", Adapters(kept.folder))
    with pytest.raises(AdapterError, match="truncated"):
        made.train(job(adapter=trained.adapter), Adapters(kept.folder))
    made.close()


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of a file's size there")
def test_a_full_disk_for_temporary_files_is_named(provider: LocalProvider, adapters: Adapters) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(AdapterError, match=r"cannot be written to .*set TMPDIR"):
            provider.train(job(settings=LoraSettings(min_steps=0, rank=2, epochs=1)), adapters)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_out_of_memory_halves_the_micro_batch(
    provider: LocalProvider, adapters: Adapters, trained: TrainingResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    import trl

    sizes: list[int] = []
    fits = 1

    def short_of_memory(self: Any, model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, model, inputs, *rest, **more)

    real = trl.SFTTrainer.compute_loss
    monkeypatch.setattr(trl.SFTTrainer, "compute_loss", short_of_memory)
    result = provider.train(job(), adapters)
    assert sizes[:3] == [4, 2, 1]
    assert result.losses == pytest.approx(trained.losses, abs=2e-3)
    fits = 0
    with pytest.raises(TrainingError, match="too little memory"):
        provider.train(job(), adapters)
    assert answers(provider, trained.adapter) == [example.completion for example in EXAMPLES]


def test_calls_during_training_wait_and_are_answered(
    provider: LocalProvider, adapters: Adapters, trained: TrainingResult
) -> None:
    expected = answers(provider, trained.adapter)
    found: list[list[str]] = []

    def ask() -> None:
        found.append(answers(provider, trained.adapter))

    thread: list[threading.Thread] = []

    def progress(step: int, _steps: int, _loss: float) -> None:
        if step == 1:
            thread.append(threading.Thread(target=ask))
            thread[0].start()

    provider.train(job(), adapters, progress)
    thread[0].join(60)
    assert found == [expected]


def test_closing_ends_a_training(folder: Path, adapters: Adapters) -> None:
    made = LocalProvider(f"local/{folder}", adapters)
    closer: list[threading.Thread] = []

    def progress(step: int, _steps: int, _loss: float) -> None:
        if step == 2:
            closer.append(threading.Thread(target=made.close))
            closer[0].start()

    with pytest.raises((TrainingError, LMError)):
        made.train(job(settings=LoraSettings(min_steps=0, rank=2, epochs=2000)), adapters, progress)
    closer[0].join(60)
    assert not closer[0].is_alive()


def test_it_is_quiet_and_phones_nobody(folder: Path, tmp_path: Path) -> None:
    code = f"""
import socket, sys, os
from pathlib import Path
def refuse(*_args, **_more): raise AssertionError("a connection was opened")
socket.create_connection = refuse
socket.socket.connect = refuse
socket.getaddrinfo = refuse
from harness.lm.local import LocalProvider
from harness.train.adapters import Adapters
from tests.test_training import answers, job
if __name__ == "__main__":
    adapters = Adapters(Path("adapters"))
    provider = LocalProvider("local/{folder}", adapters)
    result = provider.train(job(), adapters)
    answers(provider, result.adapter)
    provider.close()
"""
    root = Path(__file__).parent.parent
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(root),
        "HOME": str(tmp_path / "home"),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    ran = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path / "work",
        env=environment,
        check=False,
    )
    assert (ran.stdout, ran.stderr, ran.returncode) == ("", "", 0)
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["adapters"]
