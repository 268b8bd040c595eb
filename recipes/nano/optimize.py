"""The optimizers: Muon for the matrices, Adam for embeddings and norms. Their state is a flat dictionary of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from recipes.nano.net import Net
from recipes.nano.precision import native
from recipes.nano.wiring import held, later


def orthogonalized(updates: Sequence[Tensor]) -> list[Tensor]:
    """For each matrix the nearest one with singular values near one, by five Newton-Schulz steps (Jordan 2024, Muon).

    Matrices of one shape are handled together: many small products cost more than a few large ones.
    """
    made: list[Tensor] = list(updates)
    groups: dict[tuple[int, int], list[int]] = {}
    dtype = native(made[0].device) if made else torch.float32
    for index, update in enumerate(updates):
        rows, columns = update.shape
        groups.setdefault((min(rows, columns), max(rows, columns)), []).append(index)
    for group in groups.values():
        wide = torch.stack([u.T if u.shape[0] > u.shape[1] else u for u in (updates[i] for i in group)]).to(dtype)
        wide = wide / (wide.float().norm(dim=(1, 2), keepdim=True) + 1e-7).to(dtype)
        for _ in range(5):
            square = wide @ wide.transpose(1, 2)
            wide = 3.4445 * wide + (-4.7750 * square + 2.0315 * square @ square) @ wide
        for index, result in zip(group, wide, strict=True):
            rows, columns = updates[index].shape
            turned = result.T if rows > columns else result
            made[index] = turned.to(updates[index].dtype) * max(1.0, rows / columns) ** 0.5
    return made


@dataclass
class Optimizer:
    """One step at a time over all parameters of a network; ``state`` is what a checkpoint must keep.

    Matrices that write to the residual stream move slowly, in proportion to the small embeddings they add to; otherwise
    the stream outgrows the embeddings within a few hundred steps and what tells words apart drowns. The wired circuits
    stay as they are as long as they are held: left free from the start, they are overwritten within a few hundred steps
    by what lowers the loss of every task a little, such as naming any of the options.
    """

    net: Net
    write_share: float = 0.25
    rest_share: float = 0.05
    decay: float = 0.01
    state: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0
    held: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.held = {name: mask.to(self.net.words.device) for name, mask in held(self.net.shape).items()}

    def _parts(self, name: str) -> int:
        return 3 if name.endswith("qkv") else 2 if name.endswith("gate_up") else 1

    def _share(self, name: str) -> float:
        return self.write_share if name.endswith(("out", "down")) else 1.0

    def _grad(self, weight: Tensor) -> Tensor:
        assert weight.grad is not None
        return weight.grad

    def _slot(self, name: str, like: nn.Parameter) -> Tensor:
        if name not in self.state:
            self.state[name] = torch.zeros_like(like)
        return self.state[name]

    @torch.no_grad()
    def step(self, matrix_rate: float, other_rate: float, hold: bool = True) -> None:
        """Apply the gradients with the learning rates of the matrices and of all else, and clear them.

        Without ``hold`` only layer 0 and the embeddings' own dimensions stay as they were wired.
        """
        self.steps += 1
        found = {name: weight for name, weight in self.net.named_parameters() if weight.grad is not None}
        held = {name: mask for name, mask in self.held.items() if name in found and (hold or not later(name))}
        kept = {name: found[name].clone() for name in held}
        matrices = {name: weight for name, weight in found.items() if name.startswith("blocks") and weight.ndim == 2}
        chunks: list[Tensor] = []
        for name, weight in matrices.items():
            grad = self._grad(weight)
            momentum = self._slot("momentum." + name, weight)
            momentum.lerp_(grad, 0.05)
            chunks += grad.lerp(momentum, 0.95).chunk(self._parts(name))
        updates = iter(orthogonalized(chunks))
        for name, weight in matrices.items():
            update = torch.cat([next(updates) for _ in range(self._parts(name))])
            rate = matrix_rate * self._share(name)
            weight.mul_(1 - rate * self.decay).add_(update, alpha=-rate)
        correction = (1 - 0.95**self.steps) ** 0.5 / (1 - 0.9**self.steps)
        for name, weight in found.items():
            if name not in matrices:
                grad = self._grad(weight)
                mean, square = self._slot("mean." + name, weight), self._slot("square." + name, weight)
                mean.lerp_(grad, 0.1)
                square.lerp_(grad.square(), 0.05)
                rate = other_rate * (self.rest_share if name == "number_rest" else 1.0)
                weight.addcdiv_(mean, square.sqrt().add_(1e-8), value=-rate * correction)
        for name, mask in held.items():
            found[name].copy_(torch.where(mask, kept[name], found[name]))
        for weight in found.values():
            weight.grad = None
