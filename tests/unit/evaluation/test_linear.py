"""`evaluate linear`: the fit against scikit-learn's, the choice of the strength, faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from anyregion.cli.main import main  # noqa: E402
from anyregion.errors import InputError  # noqa: E402
from anyregion.evaluation.backbones.linear import (  # noqa: E402
    STRENGTHS,
    evaluate_linear,
    fit,
    fit_with_best_strength,
    hold_out,
)
from tests.helpers.colour_backbone import class_folders, colour_backbone  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def clouds(rows: int = 150, width: int = 12, classes: int = 4) -> tuple[Any, Any]:
    """Overlapping clouds of points, of unlike scales, about unlike places."""
    draw = np.random.default_rng(1)
    labels = np.arange(rows) % classes
    centres = draw.normal(size=(classes, width))
    scales = 10.0 ** draw.uniform(-2, 2, width)
    return (centres[labels] + draw.normal(size=(rows, width))) * scales + 5, labels


@pytest.mark.parametrize("strength", [1e-4, 1e-2, 1.0])
def test_as_scikit_learn(strength: float) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = clouds()
    reference = linear_model.LogisticRegression(
        C=1 / (len(x) * strength), max_iter=20_000, tol=1e-10
    ).fit((x - x.mean(0)) / x.std(0), y)
    classifier = fit(torch.from_numpy(x), torch.from_numpy(y), 4, strength=strength)
    assert classifier.slope < 1e-5
    # adding one vector to all classes changes no probability: scikit-learn's bias sums to 0
    bias = classifier.bias - classifier.bias.mean()
    assert np.allclose(
        classifier.weight.numpy(), reference.coef_, atol=2e-3 * abs(reference.coef_).max()
    )
    assert np.allclose(bias.numpy(), reference.intercept_ - reference.intercept_.mean(), atol=1e-2)
    queries = torch.from_numpy(x) + 0.3
    chances = reference.predict_proba((queries.numpy() - x.mean(0)) / x.std(0))
    assert np.allclose(classifier(queries).softmax(dim=1).numpy(), chances, atol=1e-3)


def test_the_fit_is_deterministic_and_warm_starts_lead_to_the_same_place() -> None:
    x, y = (torch.from_numpy(v) for v in clouds())
    first, again = (fit(x, y, 4, strength=0.01) for _ in range(2))
    assert torch.equal(first.weight, again.weight)
    far = fit(x, y, 4, strength=1.0)
    warm = fit(x, y, 4, strength=0.01, start=far)
    assert torch.allclose(warm.weight, first.weight, atol=1e-3)


def test_a_feature_that_never_changes() -> None:
    x, y = clouds()
    x[:, 3] = 7.0
    result = fit(torch.from_numpy(x), torch.from_numpy(y), 4, strength=0.01)
    assert bool(torch.isfinite(result.weight).all())
    assert float(result.weight[:, 3].abs().max()) < 1e-9


def test_held_out() -> None:
    labels = np.repeat([0, 1, 2, 3], [20, 9, 2, 1])
    held = hold_out(labels, seed=0)
    assert [int(held[labels == c].sum()) for c in range(4)] == [4, 1, 1, 0]
    assert np.array_equal(held, hold_out(labels, seed=0))
    assert not np.array_equal(held, hold_out(labels, seed=1))


def test_the_strength_is_the_best_on_held_out_rows() -> None:
    x, y = (torch.from_numpy(v) for v in clouds())
    _, strength, tried = fit_with_best_strength(x.float(), y, seed=0)
    assert list(tried) == list(STRENGTHS[: len(tried)])
    best = max(tried.values())
    assert strength == max(s for s, value in tried.items() if value == best)
    held = torch.from_numpy(hold_out(y.numpy(), seed=0))
    again = fit(x[~held], y[~held], 4, strength=strength)
    assert float((again(x[held]).argmax(1) == y[held]).double().mean()) == pytest.approx(best)
    with pytest.raises(InputError, match="nothing to hold out"):
        fit_with_best_strength(x[:4], y[:4], seed=0)


def test_class_folders(tmp_path: Path) -> None:
    train = class_folders(tmp_path / "train", {"blue": 6, "green": 6, "red": 6})
    val = class_folders(tmp_path / "val", {"green": 2, "red": 3, "violet": 1})
    (train / "blue" / "broken.png").write_bytes(b"no image")
    report = evaluate_linear(colour_backbone(), train, val)
    assert report.by_class == {"green": 1, "red": 1, "violet": 0}
    assert report.missing == ("violet",)
    assert (report.train_images, report.images, report.classes) == (18, 6, 3)
    assert report.details.converged
    assert [Path(a.item).name for a in report.set_aside] == ["broken.png"]
    # nothing is chosen on `val`
    other = class_folders(tmp_path / "other", {"blue": 4, "red": 1})
    again = evaluate_linear(colour_backbone(), train, other)
    assert (again.details.held_out, again.details.strength) == (
        report.details.held_out,
        report.details.strength,
    )
    with pytest.raises(InputError, match="must not be those"):
        evaluate_linear(colour_backbone(), train, train)
    with pytest.raises(InputError, match="1 class with images"):
        evaluate_linear(colour_backbone(), class_folders(tmp_path / "one", {"red": 3}), val)
    with pytest.raises(InputError, match="seed must not be negative"):
        evaluate_linear(colour_backbone(), train, val, seed=-1)


def test_command(tmp_path: Path, capsys: Any) -> None:
    train = class_folders(tmp_path / "train", {"red": 4, "green": 4})
    val = class_folders(tmp_path / "val", {"red": 1, "green": 1})
    words = [str(train), str(val), "--backbone", "torchvision/resnet18", "--size", "32"]
    assert main(["evaluate", "linear", *words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["top1"] == 1
    assert main(["evaluate", "linear", *words]) == 0
    assert "L2 strength" in capsys.readouterr().out
