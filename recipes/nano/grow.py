"""From a trained network to a wider one with heads that are set up by hand, and what training may change of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from tokenizers import Tokenizer
from torch import Tensor

from recipes.nano.circuits import COPYING, DEMOS, LOOKING, SQUARES, mark, mark_sizes, set_up_first, set_up_rest
from recipes.nano.codes import codes
from recipes.nano.layout import EXTRA
from recipes.nano.net import Block, Net, Shape


@torch.no_grad()
def widened(old: Net, values: list[float]) -> Net:
    """A network that computes what ``old`` does, with dimensions and neurons that do nothing yet."""
    was = old.shape
    shape = replace(was, width=was.width + EXTRA, inner=was.inner + SQUARES, owned=EXTRA)
    net, width, keep = Net(shape, values), was.width, math.sqrt(was.width / shape.width)
    for name, weight in net.named_parameters():
        weight.zero_()
        given = old.get_parameter(name)
        if given.ndim == 1:
            weight[:width] = given * keep  # the new dimensions, empty, make the root mean square smaller
        elif name.endswith("gate_up"):
            for new, part in zip(weight.chunk(2), given.chunk(2), strict=True):
                new[: was.inner, :width] = part
        else:
            weight[tuple(slice(size) for size in given.shape)] = given
    for block in net.blocks:
        assert isinstance(block, Block)
        block.norm_attention[width:] = block.norm_mlp[width:] = keep
    return net


def grown(old: Net, values: list[float], tokenizer: Tokenizer, batches: Sequence[Tensor]) -> Net:
    """``old``, which `restored` gives, with the heads of `circuits`.

    ``batches``, each (rows, length), are tokens of chats, which tell how large the stream is.
    """
    net = widened(old, values)
    known = codes(net)
    mark(net, tokenizer, known)
    set_up_first(net, known)
    set_up_rest(net, known, mark_sizes(net, batches))
    return net


@torch.no_grad()
def louder(net: Net, times: float) -> None:
    """Let the heads that find answers of demos add ``times`` as much to the output as training had them add."""
    block, head = net.blocks[DEMOS], net.shape.head
    assert isinstance(block, Block)
    for index in COPYING[DEMOS]:
        block.out[:, index * head : (index + 1) * head] *= times


@torch.no_grad()
def look_as(net: Net, other: Net) -> None:
    """Let the heads that were set up by hand look for what those of ``other`` do, by the same marks."""
    theirs, own = dict(other.named_parameters()), torch.arange(net.shape.width) >= net.shape.width - net.shape.owned
    for name, mask in {**held(net.shape), "words": own, "number_map": own, "number_rest": own}.items():
        weight = net.get_parameter(name)
        weight.copy_(torch.where(mask, theirs[name], weight))


def freeze(net: Net) -> None:
    """Leave embeddings and layer 0 out of training: the heads' marks hold for the sizes that the stream has there."""
    first = net.blocks[0]
    for weight in (net.words, net.number_map, net.number_rest, *first.parameters()):
        weight.requires_grad_(False)


def held(shape: Shape) -> dict[str, Tensor]:
    """What training leaves as it is above layer 0: a mask for each such parameter, which broadcasts to its shape."""
    own = torch.arange(shape.width) >= shape.width - shape.owned

    def of(heads: tuple[int, ...]) -> Tensor:
        mask = torch.zeros(shape.heads, shape.head, dtype=torch.bool)
        mask[list(heads)] = True
        return mask.flatten()

    found: dict[str, Tensor] = {}
    for index in range(1, shape.layers):
        looking, copying = of(LOOKING.get(index, ())), of(COPYING.get(index, ()))
        found[f"blocks.{index}.qkv"] = torch.cat([looking | copying, looking | copying, looking])[:, None]
        found[f"blocks.{index}.out"] = own[:, None] | looking[None]
        squares = (torch.arange(shape.inner) >= shape.inner - SQUARES) & (index == 1)
        found[f"blocks.{index}.gate_up"] = torch.cat([squares, squares])[:, None]
        found[f"blocks.{index}.down"] = own[:, None] | squares[None]
        found[f"blocks.{index}.norm_attention"] = own
        if index == 1:
            found[f"blocks.{index}.norm_mlp"] = own
    return found
