"""A random Llama small enough to be trained inside a test, with a byte-level tokenizer and a chat template."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from harness.train.loader import quiet

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

DEFAULT_TEXTS = (
    "petal_length: 1.4\npetal_width: 0.2\nsepal_length: 5.1\nsepal_width: 3.5",
    "species: setosa",
    "species: versicolor",
    "species: virginica",
    "Name the iris species from its petal and sepal dimensions in cm.",
    "system user assistant question answer reasoning the of and to in is a that it",
)


def make_tiny_llama(
    folder: Path,
    *,
    texts: Iterable[str] = DEFAULT_TEXTS,
    vocabulary: int = 512,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    context: int = 1024,
    seed: int = 0,
    chat_template: str = CHAT_TEMPLATE,
    pad_is_eos: bool = False,
) -> Path:
    """Write model and tokenizer into `folder` (safetensors) and return it.

    The tokenizer is byte-level BPE trained on `texts`, so it encodes any text; `vocabulary` is an upper bound. The
    weights are random but the same for the same arguments.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(list(texts), trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|im_end|>" if pad_is_eos else "<|pad|>",
        additional_special_tokens=["<|im_start|>", "<|endoftext|>"],
        model_max_length=context,
        clean_up_tokenization_spaces=False,
        chat_template=chat_template,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(wrapped),
                hidden_size=hidden,
                intermediate_size=hidden * 2,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                num_key_value_heads=kv_heads,
                max_position_embeddings=context,
                initializer_range=0.2,
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=wrapped.eos_token_id,
                pad_token_id=wrapped.pad_token_id,
            )
        )
    folder.mkdir(parents=True, exist_ok=True)
    with quiet():
        model.save_pretrained(folder, safe_serialization=True)
        wrapped.save_pretrained(folder)
    return folder
