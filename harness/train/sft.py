"""Fine-tuning a LoRA adapter with TRL's SFTTrainer, on the base model that also generates."""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness.errors import AdapterError, NothingToTrainError, TrainingError
from harness.lm.encode import encode_example
from harness.lm.served import ServedModel
from harness.train.adapters import CONFIG_FILE, WEIGHTS_FILE, Adapters
from harness.train.job import LoraSettings, Progress, TrainingJob, TrainingResult
from harness.train.loader import CHECKPOINTED_PARAMETERS, quiet

__all__ = ["fine_tune"]

_NAME = "adapter-in-training"
# Padded tokens of one micro-batch; gradients of micro-batches add up to those of the whole batch.
_CPU_TOKENS = 8192
_GPU_TOKENS = 16384
# Config fields by which models change their logits, of which TRL's chunked loss knows no more than the scale of
# Cohere and the soft cap of Gemma: Granite and HyperCLOVA X, Falcon-H1, RecurrentGemma, xLSTM.
_UNKNOWN_TO_TRL = ("logits_scaling", "lm_head_multiplier", "logits_soft_cap", "output_logit_soft_cap")


def fine_tune(
    served: ServedModel,
    job: TrainingJob,
    adapters: Adapters,
    progress: Progress | None = None,
    abandoned: Callable[[], bool] = lambda: False,
) -> TrainingResult:
    """Train the job's adapter and store it in ``adapters``; the served model is as it was afterwards.

    An adapter named by the job is continued: it is trained on with the rank, alpha and target modules it has.
    Equal jobs give bitwise equal weights on a CPU. Examples longer than the context or ``max_length`` are left
    out, since a completion that is cut would teach the model not to end. Global random states are put back.

    Raises:
        NothingToTrainError: the job has no examples, or none that is short enough.
        TrainingError: memory ran out at the smallest batch, or the caller gave up.
        AdapterError: the adapter to continue from is missing or damaged, or the new one cannot be written.
    """
    if not job.examples:
        raise NothingToTrainError(
            "There is no example to train on: no trace passed the metric. Try a stronger LM, more rollouts or an "
            "easier metric."
        )
    began = time.perf_counter()
    rows = _encoded(served, job)
    micro = _first_micro_batch(served, job.settings, rows)
    with _global_random_state(), quiet():
        while True:
            try:
                losses, digest = _train_once(served, job, adapters, rows, micro, progress, abandoned)
                break
            except _out_of_memory() as error:
                smaller = _smaller(job.settings.batch_size, micro)
                if smaller is None:
                    raise TrainingError(
                        "The GPU has too little memory for one example at a time. Lower max_length or rank, "
                        "or use a smaller model."
                    ) from error
                micro = smaller
            except (RuntimeError, ValueError) as error:
                raise TrainingError(f"The training failed: {error} Check the LoRA settings, or free memory.") from error
            finally:
                _release(served)
    return TrainingResult(
        adapter=digest,
        steps=len(losses),
        examples=len(rows),
        tokens=sum(sum(mask) for _, mask in rows),
        losses=tuple(losses),
        seconds=time.perf_counter() - began,
    )


def _encoded(served: ServedModel, job: TrainingJob) -> list[tuple[list[int], list[int]]]:
    limit = min(job.settings.max_length, served.context or job.settings.max_length)
    rows = [encode_example(served.tokenizer, example) for example in job.examples]
    fitting = [row for row in rows if len(row[0]) <= limit]
    if not fitting:
        raise NothingToTrainError(
            f"None of the {len(rows)} examples fits into {limit} tokens (the shortest has "
            f"{min(len(ids) for ids, _ in rows)}). Raise max_length, or use a model with a longer context."
        )
    return fitting


def _first_micro_batch(served: ServedModel, settings: LoraSettings, rows: list[tuple[list[int], list[int]]]) -> int:
    longest = max(len(ids) for ids, _ in rows)
    tokens = _GPU_TOKENS if served.device.type == "cuda" else _CPU_TOKENS
    size = settings.batch_size
    while size * longest > tokens and (smaller := _smaller(settings.batch_size, size)) is not None:
        size = smaller
    return size


def _smaller(batch: int, micro: int) -> int | None:
    """The largest divisor of the batch that is at most half the micro-batch."""
    return next((size for size in range(micro // 2, 0, -1) if batch % size == 0), None)


def _train_once(
    served: ServedModel,
    job: TrainingJob,
    adapters: Adapters,
    rows: list[tuple[list[int], list[int]]],
    micro: int,
    progress: Progress | None,
    abandoned: Callable[[], bool],
) -> tuple[list[float], str]:
    # TRL reports to the hub which trainer runs on what; a user's evaluation is nobody else's business.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback, set_seed
    from trl import SFTConfig, SFTTrainer
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    settings = job.settings
    losses: list[float] = []

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_log(
            self, _args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_kwargs: Any
        ) -> None:
            if logs is None or "loss" not in logs:
                return
            losses.append(float(logs["loss"]))
            if progress is not None:
                progress(state.global_step, state.max_steps, losses[-1])
            if abandoned():
                control.should_training_stop = True

    class Trainer(SFTTrainer):  # type: ignore[misc]
        def _send_telemetry(self) -> None:
            pass

    cuda = served.device.type == "cuda"
    large = sum(parameter.numel() for parameter in served.base.parameters()) >= CHECKPOINTED_PARAMETERS
    checkpointing = cuda and large and not served.loaded.optimized
    set_seed(job.seed)
    model = _prepared(served, job, adapters)
    forward = served.base.__dict__.get("forward")
    dataset = Dataset.from_dict(
        {
            "input_ids": [ids for ids, _ in rows],
            "labels": [[token if on else -100 for token, on in zip(*row, strict=True)] for row in rows],
        }
    )
    steps = max(math.ceil(math.ceil(len(rows) / settings.batch_size) * settings.epochs), settings.min_steps, 1)
    with tempfile.TemporaryDirectory(prefix="bt-train-") as scratch:
        args = SFTConfig(
            output_dir=scratch,
            seed=job.seed,
            max_steps=steps,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=settings.batch_size // micro,
            learning_rate=settings.learning_rate or rate_by_width(served.base.config.get_text_config().hidden_size),
            lr_scheduler_type=settings.schedule,
            warmup_steps=math.ceil(steps * settings.warmup_ratio),
            max_length=None,
            packing=False,
            loss_type="nll" if served.loaded.optimized or not _chunkable(model) else "chunked_nll",
            # A mixture of experts would be tuned for balance as well, and report it with every token it generates.
            router_aux_loss_coef=0.0,
            dataset_kwargs={"skip_prepare_dataset": True},
            gradient_checkpointing=checkpointing,
            bf16=cuda and served.base.dtype == torch.bfloat16,
            fp16=cuda and served.base.dtype == torch.float16,
            use_cpu=not cuda,
            optim="adamw_torch",
            logging_steps=1,
            logging_nan_inf_filter=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=cuda,
            dataloader_num_workers=0,
        )
        # One GPU, the one the model is on: the trainer would spread over all it sees.
        args._n_gpu = min(args.n_gpu, 1)
        trainer = Trainer(
            model=model,
            args=args,
            train_dataset=dataset,
            processing_class=served.tokenizer,
            data_collator=DataCollatorForLanguageModeling(pad_token_id=_pad(served.tokenizer)),
            callbacks=[Watch()],
        )
        trainer.remove_callback(PrinterCallback)
        try:
            trainer.train()
        finally:
            # Mixed precision wraps the model's forward; generation must not run through it.
            trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
            # So does the loss that computes logits where there are labels alone.
            served.base.__dict__.pop("forward", None)
            if forward is not None:
                served.base.forward = forward
            if checkpointing:
                model.gradient_checkpointing_disable()
                model.disable_input_require_grads()
    if abandoned():
        raise TrainingError("The training was given up before its end.")
    if not all(map(math.isfinite, losses)):
        raise TrainingError("The loss became infinite or NaN. Lower the learning rate.")
    return losses, _saved(model, job, adapters)


def rate_by_width(width: int) -> float:
    """A learning rate for LoRA on a model of this hidden size: 3e-4 for a Llama of 8B parameters, 3e-3 at width 192.

    Source: the fit for Llama models in Schulman et al. 2025, "LoRA Without Regret", ten times that of full
    fine-tuning, whatever the rank.
    """
    return float(5e-4 * (2000 / width) ** 0.781)


def _prepared(served: ServedModel, job: TrainingJob, adapters: Adapters) -> Any:
    """The PEFT model with the adapter to train as its one trainable part."""
    from peft import LoraConfig

    if job.lm.adapter is not None:
        model = served.attach(_NAME, adapters.path(job.lm.adapter))
    else:
        settings = job.settings
        targets = settings.target_modules
        model = served.create(
            _NAME,
            LoraConfig(
                task_type="CAUSAL_LM",
                r=settings.rank,
                lora_alpha=settings.alpha,
                lora_dropout=settings.dropout,
                target_modules=targets if isinstance(targets, str) else list(targets),
            ),
        )
    served.activate(_NAME, trainable=True)
    return model


def _chunkable(model: Any) -> bool:
    """Whether TRL can skip the logits of the prompt's tokens: it multiplies by the output layer's weights itself.

    It would miss an adapter on that layer, and what some models do to their logits afterwards.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = model.get_base_model()
    config = base.config.get_text_config()
    changed = any(getattr(config, name, None) not in (None, 1.0) for name in _UNKNOWN_TO_TRL)
    return not changed and not isinstance(base.get_output_embeddings(), BaseTunerLayer)


def _saved(model: Any, job: TrainingJob, adapters: Adapters) -> str:
    from peft import get_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # PEFT's own save_pretrained writes a model card and may ask the hub about the base model.
    weights = get_peft_model_state_dict(model, adapter_name=_NAME, save_embedding_layers=False)
    config = {key: _plain(value) for key, value in model.peft_config[_NAME].to_dict().items()}
    config["base_model_name_or_path"] = _portable(job.lm.model)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    try:
        with tempfile.TemporaryDirectory(prefix="bt-adapter-") as scratch:
            folder = Path(scratch)
            save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
            (folder / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
            return adapters.adopt(folder)
    except (OSError, SafetensorError) as error:
        raise AdapterError(
            f"The tuned adapter cannot be written to {tempfile.gettempdir()}: {error}. Free space there, or set TMPDIR "
            "to another folder."
        ) from error


def _plain(value: Any) -> Any:
    """A config value as JSON has it; sets are sorted, since their order changes from process to process."""
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, (bool, int, float, str, list, tuple)):
        return value
    return str(getattr(value, "value", value))


def _portable(model: str) -> str:
    """The model string; where it names a folder, the folder's own name alone, for adapters are shipped."""
    name = model.removeprefix("local/")
    if name.startswith((".", "~", "/")) or Path(name).is_absolute():
        return f"local/{Path(name).name}"
    return model


def _pad(tokenizer: Any) -> int:
    # Labels and attention mask say what is padding, so any token serves.
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)


def _out_of_memory() -> type[BaseException]:
    import torch

    return torch.OutOfMemoryError


def _release(served: ServedModel) -> None:
    """Drop the adapter in training with its gradients and optimizer, and go back to inference."""
    import torch

    served.detach(_NAME)
    served.freeze()
    if served.device.type == "cuda":
        # The trainer holds its optimizer in reference cycles, which would keep the memory for a while longer.
        gc.collect()
        torch.cuda.empty_cache()


@contextlib.contextmanager
def _global_random_state() -> Iterator[None]:
    """Put Python's, numpy's and torch's global generators back: the trainer seeds all of them."""
    import numpy as np
    import torch

    python, legacy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
        torch.set_rng_state(cpu)
        if gpus:
            torch.cuda.set_rng_state_all(gpus)
