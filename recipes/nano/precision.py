"""In which type products of matrices are taken."""

from __future__ import annotations

import torch


def native(device: torch.device) -> torch.dtype:
    """bfloat16, or float32 on a CPU that has no instructions for bfloat16, where it is many times slower."""
    if device.type != "cpu":
        return torch.bfloat16
    known = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if known else torch.float32
