"""In which numbers a model computes on this processor."""

import torch

HAVE_BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16")  # x86, x86, Arm


def dtype_of(name: str) -> torch.dtype:
    """The type that a setting names; `auto` is bfloat16 where the processor multiplies it, else float32.

    Without such instructions bfloat16 is emulated, and 6 times slower than float32 (docs/experiments.md).

    >>> dtype_of("float32")
    torch.float32
    """
    if name == "auto":
        able = torch.cpu.get_capabilities()
        name = "bfloat16" if any(able.get(feature, False) for feature in HAVE_BFLOAT16) else "float32"
    dtype: torch.dtype = getattr(torch, name)
    return dtype
