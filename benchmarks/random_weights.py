"""Weights for benchmarks of models whose trained ones cannot be had."""

from __future__ import annotations

from typing import TypeVar

import torch

Model = TypeVar("Model", bound=torch.nn.Module)


def unit_gain(model: Model) -> Model:
    """Random weights whose products keep their inputs' size, as trained ones do.

    `transformers`' own start lets values fade layer by layer to denormal numbers, with which
    processors compute many times slower.
    """
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            scale = parameter[0].numel() ** -0.5
            parameter.data = torch.randn(parameter.shape, generator=generator) * scale
    return model.eval()
