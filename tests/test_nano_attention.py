"""The recipe's attention, loss and other arithmetic against PyTorch's own, or against a plainer way to the same."""

from __future__ import annotations

import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402

from recipes.nano.attention import CHUNK, causal, cross_entropy  # noqa: E402
from recipes.nano.net import Net, Shape  # noqa: E402
from recipes.nano.optimize import orthogonalized  # noqa: E402


@settings(max_examples=15, deadline=None)
@given(length=st.integers(1, 2 * CHUNK + 5), heads=st.integers(1, 3), seed=st.integers(0, 9))
def test_attention_and_its_gradients_are_those_of_torch(length: int, heads: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(2, heads, length, 8, generator=draw, requires_grad=True) for _ in range(3)]
    ours, theirs = causal(*inputs), F.scaled_dot_product_attention(*inputs, is_causal=True)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    toward = torch.randn(ours.shape, generator=draw)
    for left, right in zip(
        torch.autograd.grad(ours, inputs, toward), torch.autograd.grad(theirs, inputs, toward), strict=True
    ):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [torch.float32, torch.bfloat16])
def test_the_loss_and_its_gradient_are_those_of_torch(size: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(3)
    logits = torch.randn(7, 11, generator=draw).to(size).requires_grad_()
    targets, weights = torch.randint(0, 11, (7,), generator=draw), torch.rand(7, generator=draw)
    ours = cross_entropy(logits, targets, weights)
    theirs = (F.cross_entropy(logits.float(), targets, reduction="none") * weights).sum()
    torch.testing.assert_close(ours, theirs)
    (left,), (right,) = torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits)
    torch.testing.assert_close(left, right, atol=1e-6 if size == torch.float32 else 1e-2, rtol=1e-2)


@pytest.mark.parametrize("shapes", [[(4, 6), (6, 4), (4, 6), (3, 3)], [(1, 5)]])
def test_matrices_are_made_orthogonal_together_as_one_by_one(shapes: list[tuple[int, int]]) -> None:
    draw = torch.Generator().manual_seed(1)
    updates = [torch.randn(shape, generator=draw) for shape in shapes]
    together = orthogonalized(updates)
    for update, made in zip(updates, together, strict=True):
        torch.testing.assert_close(orthogonalized([update])[0], made, atol=3e-2, rtol=0.0)  # bfloat16 inside
        scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
        assert ((torch.linalg.svdvals(made) / scale - 1).abs() < 0.4).all()


@pytest.mark.skipif(shutil.which("g++") is None, reason="fusing wants a C++ compiler")
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch's own imports
def test_a_fused_net_computes_the_same() -> None:
    torch.manual_seed(2)
    net = Net(Shape(50, 3000, width=48, layers=2, heads=2, head=16, inner=48), [n / 10 for n in range(3000)])
    ids = torch.randint(0, 3050, (2, 40))
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
        plain = net(ids)
        net.fuse()
        torch.testing.assert_close(net(ids), plain, atol=1e-4, rtol=1e-4)
