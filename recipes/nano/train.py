"""Pre-training: from nothing, or from where the last run stopped.

Every step is a pure function of the checkpoint before it, so an interrupted run ends where an uninterrupted one does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from recipes.nano import checkpoint, tokens
from recipes.nano.attention import cross_entropy
from recipes.nano.batches import KIND_NAMES, Batch, make
from recipes.nano.checkpoint import Progress
from recipes.nano.mixture import STAGES
from recipes.nano.net import Net, Shape
from recipes.nano.optimize import Optimizer
from recipes.nano.precision import native
from recipes.nano.wiring import wire

WARM_UP = 100


@dataclass(frozen=True)
class Settings:
    """What a run is told; ``steps`` is the whole length, which fixes the decay of the learning rate.

    ``hold`` is the share of the steps for which the wired circuits of the layers above the first are held.
    """

    steps: int
    seed: int = 0
    budget: int = 4096
    decay: float = 0.9
    hold: float = 0.35
    device: str = "cpu"
    threads: int = 1
    every: int = 200
    compiled: bool = False
    width: int = 240
    layers: int = 5
    matrix_rate: float = 0.008
    other_rate: float = 2e-3


def rate(step: int, settings: Settings) -> float:
    """The learning rates' common factor: a warm-up, a plateau, a straight line down to a fiftieth."""
    done = step / settings.steps
    return min(1.0, (step + 1) / WARM_UP) * min(1.0, max(0.02, (1 - done) / settings.decay))


def fresh(tokenizer_path: Path, settings: Settings) -> tuple[Net, Optimizer, Progress]:
    """A network before its first step."""
    tokenizer = tokens.load(tokenizer_path)
    count, values = tokens.number_values(tokenizer)
    torch.manual_seed(settings.seed)
    net = Net(Shape(count, len(values), width=settings.width, layers=settings.layers), values)
    ends, asked, plain = (
        [tokens.token_id(tokenizer, token) for token in some] for some in (tokens.ENDS, tokens.ASKED, tokens.PLAIN)
    )
    wire(
        net,
        tokens.twins(tokenizer),
        tokens.token_id(tokenizer, tokens.COLON),
        ends,
        asked,
        plain,
        tokens.token_id(tokenizer, tokens.SPACE),
    )
    net.to(settings.device)
    return net, Optimizer(net), Progress()


def loss_and_hits(net: Net, batch: Batch, settings: Settings) -> tuple[Tensor, dict[str, float]]:
    """The weighted loss of a batch, and the share of final answers that begin right, by kind of task."""
    ids = torch.from_numpy(batch.ids).to(settings.device)
    weights = torch.from_numpy(batch.weights)[:, 1:].reshape(-1)
    row, column, other = torch.from_numpy(batch.others).unbind(1)
    keep = torch.cat([weights.nonzero().squeeze(1), row * (ids.shape[1] - 1) + column - 1])
    weights = weights[keep].to(settings.device)
    kinds = torch.from_numpy(batch.scored)[:, 1:].reshape(-1)[keep]
    keep = keep.to(settings.device)
    targets = ids[:, 1:].reshape(-1)[keep]
    targets[len(targets) - len(other) :] = other.to(settings.device)
    logits = net(ids[:, :-1].contiguous(), keep, native(ids.device))
    loss = cross_entropy(logits, targets, weights / weights.sum())
    counted = kinds >= 0
    right = (logits.detach()[counted].argmax(-1) == targets[counted]).float().cpu()
    kinds = kinds[counted]
    return loss, {KIND_NAMES[k]: right[kinds == k].mean().item() for k in set(kinds.tolist())}


def stage_of(step: int, settings: Settings) -> int:
    """The stage of the curriculum that a step belongs to."""
    return next(index for index, stage in enumerate(STAGES) if step < stage.until * settings.steps)


def run(folder: Path, tokenizer_path: Path, settings: Settings, say: Callable[[str], None] = print) -> Progress:
    """Train until ``settings.steps``, resuming from the checkpoint in ``folder`` if there is one."""
    torch.set_num_threads(settings.threads)
    if (folder / "checkpoint.safetensors").exists():
        net, optimizer, progress = checkpoint.load(folder, settings.device)
        say(f"resumed at step {progress.step}")
    else:
        net, optimizer, progress = fresh(tokenizer_path, settings)
    if settings.compiled:
        net.fuse()
    tokenizer = tokens.load(tokenizer_path)
    values = tokens.number_values(tokenizer)[1]
    began, before, first = time.monotonic(), progress.seconds, progress.tokens
    while progress.step < settings.steps:
        stage = stage_of(progress.step, settings)
        if not progress.stages or progress.stages[-1][1] != stage:
            progress.stages.append((progress.step, stage))
            say(f"stage {stage} from step {progress.step}")
        batch = make(tokenizer, settings.seed, progress.step, stage, settings.budget)
        loss, hits = loss_and_hits(net, batch, settings)
        loss.backward()  # type: ignore[no-untyped-call]
        factor = rate(progress.step, settings)
        hold = progress.step < settings.hold * settings.steps
        optimizer.step(factor * settings.matrix_rate, factor * settings.other_rate, hold)
        progress.step += 1
        progress.tokens += batch.ids.size
        progress.losses.append(round(loss.item(), 4))
        for kind, share in hits.items():
            progress.accuracy[kind] = 0.97 * progress.accuracy.get(kind, share) + 0.03 * share
        progress.seconds = before + time.monotonic() - began
        if progress.step % 50 == 0:
            recent = progress.losses[-50:]
            speed = (progress.tokens - first) / (progress.seconds - before)
            known = " ".join(f"{kind} {share:.2f}" for kind, share in sorted(progress.accuracy.items()))
            say(
                f"{progress.seconds:.0f}s step {progress.step} {progress.tokens / 1e6:.2f}M {speed:.0f}/s "
                f"loss {sum(recent) / len(recent):.3f} rate {rate(progress.step, settings):.2f} {known}"
            )
        if progress.step % settings.every == 0 or progress.step == settings.steps:
            checkpoint.save(folder, net, optimizer, progress, values)
    return progress
