"""Chat examples in, LoRA adapter out."""
