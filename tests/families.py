"""Tiny random models with the tokenizers and chat templates of Mistral-7B-Instruct-v0.2, Llama-2-chat and Llama-3.

The templates follow the published ``tokenizer_config.json`` files, the tokenizers the published ``tokenizer.json``:
a SentencePiece BPE with byte fallback for the first two, a byte-level BPE for the third. Only the words differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.train.loader import quiet

MISTRAL_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)

LLAMA2_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)

LLAMA3_TEMPLATE = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

# What `\p{..}` classes Llama-3 splits text by before it merges bytes.
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)

WORDS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "Name", "it", "petal", "1", "4", "setosa", "virginica")


@dataclass(frozen=True)
class Family:
    """A chat format with the architecture it comes with; ``end`` is the token that ends a turn."""

    name: str
    architecture: str
    template: str
    special: tuple[str, ...]
    end: str
    sentencepiece: bool


MISTRAL = Family("mistral", "Mistral", MISTRAL_TEMPLATE, ("<unk>", "<s>", "</s>"), "</s>", True)
LLAMA2 = Family("llama-2", "Llama", LLAMA2_TEMPLATE, ("<unk>", "<s>", "</s>"), "</s>", True)
LLAMA3 = Family(
    "llama-3",
    "Llama",
    LLAMA3_TEMPLATE,
    ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "<|eot_id|>",
    False,
)
FAMILIES = (MISTRAL, LLAMA2, LLAMA3)


def make_family(family: Family, folder: Path, *, hidden: int = 64, context: int = 512) -> Path:
    """Write the family's tiny model and tokenizer into ``folder`` (safetensors) and return it."""
    import torch
    import transformers

    tokenizer = make_tokenizer(family, context)
    config: Any = getattr(transformers, f"{family.architecture}Config")(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **({"sliding_window": None} if family.architecture == "Mistral" else {}),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{family.architecture}ForCausalLM")(config)
    folder.mkdir(parents=True, exist_ok=True)
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def make_tokenizer(family: Family, context: int = 512) -> Any:
    """The family's tokenizer: its special tokens, bytes and `WORDS`; no padding token, as published."""
    from transformers import PreTrainedTokenizerFast

    core = _sentencepiece(family) if family.sentencepiece else _byte_level(family)
    core.add_special_tokens(list(family.special))
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=family.special[1] if family.sentencepiece else family.special[0],
        # Llama-3's tokenizer names the end of a text here, which is not the end of a turn.
        eos_token="</s>" if family.sentencepiece else "<|end_of_text|>",
        unk_token="<unk>" if family.sentencepiece else None,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
        chat_template=family.template,
    )


def _sentencepiece(family: Family) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers

    vocabulary = [*family.special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    vocabulary += sorted({letter for word in WORDS for letter in word} | set(".:"))
    # Words at the beginning of a text or after a blank come first, so that their merges win.
    merges = _merges(vocabulary, [*(f"▁{word}" for word in WORDS), *WORDS])
    core = Tokenizer(
        models.BPE(
            vocab={piece: number for number, piece in enumerate(vocabulary)},
            merges=merges,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return core


def _byte_level(family: Family) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = [*family.special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges = _merges(vocabulary, ["ĊĊ", "system", "user", "assistant", *(f"Ġ{word}" for word in WORDS), *WORDS])
    core = Tokenizer(models.BPE(vocab={piece: number for number, piece in enumerate(vocabulary)}, merges=merges))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_LLAMA3_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    return core


def _merges(vocabulary: list[str], words: list[str]) -> list[tuple[str, str]]:
    """Merges that build every word from its first letter on; what they make joins the vocabulary."""
    merges: list[tuple[str, str]] = []
    for word in words:
        for end in range(1, len(word)):
            pair = (word[:end], word[end])
            if pair not in merges:
                merges.append(pair)
                if word[: end + 1] not in vocabulary:
                    vocabulary.append(word[: end + 1])
    return merges
