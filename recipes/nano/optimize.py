"""The optimizers: Muon for the matrices, Adam for embeddings and norms. Their state is a flat dictionary of tensors."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from recipes.nano.net import Net
from recipes.nano.wiring import WIRED


def orthogonalized(update: Tensor) -> Tensor:
    """The nearest matrix with singular values near one, by five Newton-Schulz steps."""
    tall = update.shape[0] > update.shape[1]
    made = (update.T if tall else update).bfloat16()
    made = made / (made.norm() + 1e-7)
    for _ in range(5):
        square = made @ made.T
        made = 3.4445 * made + (-4.7750 * square + 2.0315 * square @ square) @ made
    made = (made.T if tall else made).to(update.dtype)
    scaled: Tensor = made * max(1.0, update.shape[0] / update.shape[1]) ** 0.5
    return scaled


@dataclass
class Optimizer:
    """One step at a time over all parameters of a network; ``state`` is what a checkpoint must keep.

    Matrices that write to the residual stream move slowly, in proportion to the small embeddings they add to; otherwise
    the stream outgrows the embeddings within a few hundred steps and what tells words apart drowns. The places that
    layer 0 looks at are wired and stay as they are: left free, all heads but one forget them, and with them
    all measured features but the nearest.
    """

    net: Net
    write_share: float = 0.25
    rest_share: float = 0.05
    decay: float = 0.01
    state: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0

    def _parts(self, name: str) -> int:
        return 3 if name.endswith("qkv") else 2 if name.endswith("gate_up") else 1

    def _share(self, name: str) -> float:
        return self.write_share if name.endswith(("out", "down")) else 1.0

    def _held(self, name: str) -> slice | tuple[slice, slice] | Tensor | None:
        """The part of a parameter that never changes: where layer 0 looks, and the marks it looks for."""
        if name == "blocks.0.qkv":
            one, every = WIRED * self.net.shape.head, self.net.shape.heads * self.net.shape.head
            return torch.cat([torch.arange(one), torch.arange(every, every + one)]).to(self.net.words.device)
        if name in ("words", "number_map", "number_rest"):
            return slice(None), slice(0, 2)
        return slice(0, 2) if name == "blocks.0.norm_attention" else None

    def _slot(self, name: str, like: nn.Parameter) -> Tensor:
        if name not in self.state:
            self.state[name] = torch.zeros_like(like)
        return self.state[name]

    @torch.no_grad()
    def step(self, matrix_rate: float, other_rate: float) -> None:
        """Apply the gradients with the learning rates of the matrices and of all else, and clear them."""
        self.steps += 1
        for name, weight in self.net.named_parameters():
            grad = weight.grad
            if grad is None:
                continue
            held = self._held(name)
            kept = weight[held].clone() if held is not None else None
            if name.startswith("blocks") and weight.ndim == 2:
                momentum = self._slot("momentum." + name, weight)
                momentum.lerp_(grad, 0.05)
                chunks = grad.lerp(momentum, 0.95).chunk(self._parts(name))
                update = torch.cat([orthogonalized(chunk) for chunk in chunks])
                rate = matrix_rate * self._share(name)
                weight.mul_(1 - rate * self.decay).add_(update, alpha=-rate)
            else:
                mean, square = self._slot("mean." + name, weight), self._slot("square." + name, weight)
                mean.lerp_(grad, 0.1)
                square.lerp_(grad.square(), 0.05)
                rate = other_rate * (self.rest_share if name == "number_rest" else 1.0)
                correction = (1 - 0.95**self.steps) ** 0.5 / (1 - 0.9**self.steps)
                weight.addcdiv_(mean, square.sqrt().add_(1e-8), value=-rate * correction)
            if kept is not None:
                weight[held] = kept
            weight.grad = None
