"""The network that an exported model folder was written from, to train it further."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from recipes.nano import checkpoint, tokens
from recipes.nano.batches import make
from recipes.nano.checkpoint import Progress
from recipes.nano.grow import grown, look_as, louder
from recipes.nano.mixture import AFTERWARDS
from recipes.nano.net import Block, Net, Shape
from recipes.nano.optimize import Optimizer


def restored(model: Path) -> Net:
    """The network of an exported model folder.

    The map from a number's features to its embedding is the one that fits the exported rows best; what is left over is
    the rows' free part. Raises ``KeyError`` for a tokenizer without the recipe's number tokens.
    """
    about = json.loads((model / "config.json").read_text(encoding="utf-8"))
    first, values = tokens.number_values(tokens.load(model / "tokenizer.json"))
    shape = Shape(
        first,
        len(values),
        width=about["hidden_size"],
        layers=about["num_hidden_layers"],
        heads=about["num_attention_heads"],
        head=about["head_dim"],
        inner=about["intermediate_size"],
        theta=about["rope_theta"],
        positions=about["max_position_embeddings"],
        epsilon=about["rms_norm_eps"],
    )
    net = Net(shape, values)
    found = {name: weight.float() for name, weight in load_file(model / "model.safetensors").items()}
    rows = found["model.embed_tokens.weight"]
    with torch.no_grad():
        net.words.copy_(rows[:first])
        net.number_map.copy_(torch.linalg.lstsq(net.number_features, rows[first:]).solution)
        net.number_rest.copy_(rows[first:] - net.number_features @ net.number_map)
        net.norm.copy_(found["model.norm.weight"])
        for index, block in enumerate(net.blocks):
            assert isinstance(block, Block)
            prefix = f"model.layers.{index}."
            part = {
                name.removeprefix(prefix).removesuffix(".weight"): weight
                for name, weight in found.items()
                if name.startswith(prefix)
            }
            block.qkv.copy_(torch.cat([part[f"self_attn.{kind}_proj"] for kind in "qkv"]))
            block.out.copy_(part["self_attn.o_proj"])
            block.gate_up.copy_(torch.cat([part["mlp.gate_proj"], part["mlp.up_proj"]]))
            block.down.copy_(part["mlp.down_proj"])
            block.norm_attention.copy_(part["input_layernorm"])
            block.norm_mlp.copy_(part["post_attention_layernorm"])
    return net


def refit_model(trained: Path, looking: Path, copying: float, folder: Path) -> None:
    """Write a checkpoint of the one in ``trained`` whose heads look as those in ``looking`` do and write more.

    For a change of what heads look for that shall not cost the training that went before.
    """
    net, _, _ = checkpoint.load(trained)
    other, _, _ = checkpoint.load(looking)
    look_as(net, other)
    louder(net, copying)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_bytes((trained / "tokenizer.json").read_bytes())
    checkpoint.save(
        folder, net, Optimizer(net), Progress(), tokens.number_values(tokens.load(folder / "tokenizer.json"))[1]
    )


def grow_model(model: Path, folder: Path, tokenizer_path: Path) -> None:
    """Write a checkpoint of an exported model with the heads of `circuits`, and its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer_path.write_bytes((model / "tokenizer.json").read_bytes())
    tokenizer = tokens.load(tokenizer_path)
    values = tokens.number_values(tokenizer)[1]
    rows = [torch.from_numpy(make(tokenizer, 11, step, AFTERWARDS, 4096).ids) for step in range(12)]
    net = grown(restored(model), values, tokenizer, rows)
    checkpoint.save(folder, net, Optimizer(net), Progress(), values)
