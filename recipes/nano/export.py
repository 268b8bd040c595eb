"""From a checkpoint to a model folder that plain ``transformers`` (or anything that serves Llama) loads."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import pad

from recipes.nano import checkpoint, curve, tokens
from recipes.nano.episode import ASSISTANT, END, PAD, SYSTEM, USER
from recipes.nano.net import Block, Net, Shape

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{- '<|assistant|>' -}}"
    "{%- generation -%}{{- message['content'] + '<|end|>' -}}{%- endgeneration -%}"
    "{%- else -%}"
    "{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def whole_heads(shape: Shape) -> int:
    """The number of heads of an export: transformers wants one that divides the width, so silent heads fill up."""
    return next(heads for heads in range(shape.heads, shape.width + 1) if shape.width % heads == 0)


def llama_config(net: Net, tokenizer: Tokenizer) -> dict[str, object]:
    """The network's sizes as a ``LlamaForCausalLM`` configuration."""
    shape = net.shape
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": whole_heads(shape),
        "num_key_value_heads": whole_heads(shape),
        "head_dim": shape.head,
        "intermediate_size": shape.inner,
        "hidden_act": "silu",
        "max_position_embeddings": shape.positions,
        "rms_norm_eps": shape.epsilon,
        "rope_theta": shape.theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.theta},
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "dtype": "float32",
        "bos_token_id": None,
        "eos_token_id": tokenizer.token_to_id(END),
        "pad_token_id": tokenizer.token_to_id(PAD),
    }


def llama_weights(net: Net) -> dict[str, Tensor]:
    """The weights under the names that ``LlamaForCausalLM`` gives them; the output matrix is the embedding."""
    found = {"model.embed_tokens.weight": net.embedding(), "model.norm.weight": net.norm}
    for index, block in enumerate(net.blocks):
        assert isinstance(block, Block)
        prefix = f"model.layers.{index}."
        silent = (whole_heads(net.shape) - net.shape.heads_of(index)) * net.shape.head
        query, key, value = (pad(part, (0, 0, 0, silent)) for part in block.qkv.chunk(3))
        gate, up = block.gate_up.chunk(2)
        found |= {
            prefix + "self_attn.q_proj.weight": query,
            prefix + "self_attn.k_proj.weight": key,
            prefix + "self_attn.v_proj.weight": value,
            prefix + "self_attn.o_proj.weight": pad(block.out, (0, silent)),
            prefix + "mlp.gate_proj.weight": gate,
            prefix + "mlp.up_proj.weight": up,
            prefix + "mlp.down_proj.weight": block.down,
            prefix + "input_layernorm.weight": block.norm_attention,
            prefix + "post_attention_layernorm.weight": block.norm_mlp,
        }
    return {name: weight.detach().clone().contiguous() for name, weight in found.items()}


def tokenizer_config(positions: int) -> dict[str, object]:
    """What ``AutoTokenizer`` needs beside the vocabulary, the chat template included."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "eos_token": END,
        "bos_token": None,
        "unk_token": None,
        "additional_special_tokens": [SYSTEM, USER, ASSISTANT],
        "padding_side": "left",
        "truncation_side": "left",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": False,
        "add_eos_token": False,
        "model_max_length": positions,
        "model_input_names": ["input_ids", "attention_mask"],
        "chat_template": CHAT_TEMPLATE,
    }


def _write(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_model(net: Net, tokenizer_path: Path, model: Path) -> None:
    """Write configuration, weights and tokenizer; the model card is left as it is.

    Weights are written in bfloat16, which is what training computes with, so nothing is lost; the configuration asks to
    load them in float32, which CPUs are fast with.
    """
    model.mkdir(parents=True, exist_ok=True)
    tokenizer = tokens.load(tokenizer_path)
    _write(model / "config.json", llama_config(net, tokenizer))
    weights = {name: weight.to("cpu", torch.bfloat16) for name, weight in llama_weights(net).items()}
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    (model / "model.safetensors").chmod(0o644)
    (model / "tokenizer.json").write_text(tokenizer_path.read_text(encoding="utf-8"), encoding="utf-8")
    _write(model / "tokenizer_config.json", tokenizer_config(net.shape.positions))
    ends = tokenizer.token_to_id(END)
    _write(
        model / "generation_config.json",
        {
            "eos_token_id": ends,
            "pad_token_id": tokenizer.token_to_id(PAD),
            "do_sample": False,
            "max_new_tokens": 128,
        },
    )


def export_model(folder: Path, tokenizer_path: Path, model: Path) -> None:
    """Write the model folder from the last checkpoint in ``folder``."""
    net, _, progress = checkpoint.load(folder)
    write_model(net, tokenizer_path, model)
    curve.draw(progress, folder / "loss.png")
    print(f"exported step {progress.step} ({progress.tokens / 1e6:.1f} M tokens) to {model}")
