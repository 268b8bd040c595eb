"""Checkpoints of a training run: tensors as safetensors, everything else as JSON, both replaced in one rename."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from recipes.nano.net import Net, Shape
from recipes.nano.optimize import Optimizer


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    accuracy: dict[str, float] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    stages: list[tuple[int, int]] = field(default_factory=list)
    note: dict[str, str | int | float] = field(default_factory=dict)


def save(folder: Path, net: Net, optimizer: Optimizer, progress: Progress, values: list[float]) -> None:
    """Write a checkpoint; one that is interrupted leaves the one before it."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"net." + name: tensor.detach().contiguous().cpu() for name, tensor in net.named_parameters()}
    tensors |= {"optimizer." + name: tensor.contiguous().cpu() for name, tensor in optimizer.state.items()}
    about = {
        "shape": net.shape.plain(),
        "progress": asdict(progress),
        "updates": optimizer.steps,
        "values": values,
    }
    part = folder / "checkpoint.safetensors.part"
    save_file(tensors, part, metadata={"about": json.dumps(about)})
    part.replace(folder / "checkpoint.safetensors")


def load(folder: Path, device: str = "cpu") -> tuple[Net, Optimizer, Progress]:
    """The network, optimizer and progress of a checkpoint."""
    path = folder / "checkpoint.safetensors"
    with safe_open(path, "pt") as opened:
        about = json.loads(opened.metadata()["about"])
    net = Net(Shape(**about["shape"]), about["values"]).to(device)
    tensors = load_file(path, device=device)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            weight.copy_(tensors["net." + name])
    kept = {name.removeprefix("optimizer."): value for name, value in tensors.items() if name.startswith("optimizer.")}
    optimizer = Optimizer(net, state=kept, steps=about["updates"])
    progress = Progress(**about["progress"])
    progress.stages = [(step, stage) for step, stage in progress.stages]
    return net, optimizer, progress
