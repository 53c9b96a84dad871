"""The numbers that a model computes in fit the processor."""

import pytest
import torch

from lmt2.models.precision import dtype_of


@pytest.mark.parametrize(
    ("able", "dtype"),
    [
        ({"avx2": True, "avx512_bf16": False}, torch.float32),
        ({"avx2": True, "avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"neon": True, "bf16": True}, torch.bfloat16),
    ],
)
def test_auto_is_what_the_processor_multiplies(
    able: dict[str, bool], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)

    assert dtype_of("auto") is dtype
    assert dtype_of("bfloat16") is torch.bfloat16  # what is asked for is what one gets
