"""The names of precisions, and what `auto` means."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from anyregion.errors import InputError  # noqa: E402
from anyregion.factory import DTYPES  # noqa: E402
from anyregion.torch_utils.devices import resolve_dtype  # noqa: E402


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_name_is_its_dtype(name: str) -> None:
    assert resolve_dtype(name, "cpu") is getattr(torch, name)


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"avx512_f": True, "avx512_bf16": False}, "float32"),
        ({"avx512_bf16": True}, "bfloat16"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bfloat16"),
        ({"bf16": True}, "bfloat16"),
    ],
)
def test_auto_follows_the_processor(
    capabilities: dict[str, bool], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert resolve_dtype("auto", "cpu") is getattr(torch, dtype)


def test_every_offered_name_is_known() -> None:
    assert all(isinstance(resolve_dtype(name, "cpu"), torch.dtype) for name in DTYPES)


def test_what_cannot_be_had() -> None:
    with pytest.raises(InputError, match="dtype 'half': there are auto, float32, bfloat16"):
        resolve_dtype("half", "cpu")
    with pytest.raises(InputError, match="device 'nowhere'"):
        resolve_dtype("float32", "nowhere")
