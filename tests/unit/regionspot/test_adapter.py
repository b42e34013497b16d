"""The adapter against torch's own decoder; its training objective."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from anyregion import InputError  # noqa: E402
from anyregion.regionspot.adapter import Adapter, AdapterConfig  # noqa: E402
from anyregion.regionspot.losses import focal_losses, region_logits, repeated_rows  # noqa: E402
from anyregion.training.optimizers import count_trainable  # noqa: E402
from tests.helpers.toy_regionspot import SMALL, seeded  # noqa: E402


@pytest.mark.parametrize("layers", [1, 3, 6])
def test_adapter_equals_torch(layers: int) -> None:
    adapter = seeded(replace(SMALL, layers=layers))
    reference = torch.nn.TransformerDecoder(
        torch.nn.TransformerDecoderLayer(32, 4, 64, batch_first=True),
        layers,
        torch.nn.LayerNorm(32),
    ).eval()
    reference.load_state_dict(adapter.decoder.state_dict())  # the same names, all of them
    tokens, features = torch.randn(2, 5, 16), torch.randn(2, 10, 32)
    expected = adapter.projector(reference(adapter.to_clip(tokens), features))
    torch.testing.assert_close(adapter(tokens, features), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("width", "embed", "millions"), [(768, 512, 24.2), (1024, 768, 38.9)], ids=["B/16", "L/14"]
)
def test_published_sizes(width: int, embed: int, millions: float) -> None:
    with torch.device("meta"):
        learned = count_trainable(Adapter(AdapterConfig(feature_width=width, embed_width=embed)))
    # the published counts include no layer that is unused: they round to the paper's figures
    assert learned / 1e6 == pytest.approx(millions, abs=0.06)


def test_groups_are_islands() -> None:
    adapter = seeded()
    tokens, features = torch.randn(1, 5, 16), torch.randn(1, 10, 32)
    together = adapter(tokens, features, groups=torch.tensor([[0, 1, 0, 1, -1]]))
    for rows in ([0, 2], [1, 3]):
        alone = adapter(tokens[:, rows], features)
        torch.testing.assert_close(together[:, rows], alone, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(together[:, :4], adapter(tokens, features)[:, :4], atol=1e-3)


def test_independent_regions_do_not_see_each_other() -> None:
    adapter = seeded(replace(SMALL, attention="independent"))
    tokens, features = torch.randn(1, 5, 16), torch.randn(1, 10, 32)
    together = adapter(tokens, features)
    for i in range(5):
        torch.testing.assert_close(
            together[:, [i]], adapter(tokens[:, [i]], features), rtol=1e-5, atol=1e-6
        )
    mutual = seeded()  # the same weights, attending to themselves alone
    islands = mutual(tokens, features, groups=torch.arange(5)[None])
    torch.testing.assert_close(together, islands, rtol=1e-5, atol=1e-6)


def test_without_features() -> None:
    adapter = seeded(replace(SMALL, use_features=False))
    assert not any("multihead_attn" in name for name in adapter.state_dict())
    assert adapter(torch.randn(1, 3, 16), None).shape == (1, 3, 24)
    with pytest.raises(InputError, match="none was given"):
        seeded()(torch.randn(1, 3, 16), None)


@pytest.mark.parametrize("change", [{"heads": 5}, {"layers": 0}, {"layers": 7}, {"attention": "x"}])
def test_configuration_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        replace(SMALL, **change)


def test_focal_loss_by_hand() -> None:
    logits = torch.tensor([[[2.0, -1.0], [0.5, 0.0]], [[1.0, 1.0], [9.0, 9.0]]])
    labels = torch.tensor([[0, 1], [1, -1]])
    p = torch.sigmoid(logits)
    target = torch.tensor([[[1, 0], [0, 1]], [[0, 1], [0, 0]]])
    right = torch.where(target == 1, p, 1 - p)
    weight = torch.where(target == 1, 0.25, 0.75)
    terms = -weight * (1 - right) ** 2 * right.log()
    expected = terms[0].sum() / 2 + terms[1, 0].sum()  # the padding row counts nowhere
    torch.testing.assert_close(focal_losses(logits, labels).sum(), expected)
    with pytest.raises(InputError, match="0 to 1"):
        focal_losses(logits, labels + 5)


def test_region_logits_match_the_scorer() -> None:
    from anyregion.scoring import logits

    regions, words = torch.randn(4, 8), torch.nn.functional.normalize(torch.randn(5, 8), dim=1)
    computed = region_logits(regions, words, 12.5).numpy()
    np.testing.assert_allclose(
        computed, logits(regions.numpy(), words.numpy(), scale=12.5), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("count", "total", "rows"),
    [(3, 5, [0, 1, 1, 2, 2]), (2, 2, [0, 1]), (1, 3, [0, 0, 0]), (3, 7, [0, 0, 1, 1, 2, 2, 2])],
)
def test_repeated_rows(count: int, total: int, rows: list[int]) -> None:
    assert repeated_rows(count, total) == rows


@pytest.mark.parametrize(("count", "total"), [(0, 3), (4, 3)])
def test_repeated_rows_refused(count: int, total: int) -> None:
    with pytest.raises(InputError):
        repeated_rows(count, total)
