"""The result of a training, and its card: what was learned, from what, at what cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from anyregion.errors import SetAside
from anyregion.files import write_text, writing

CARD = "README.md"
_MODEL_TITLE = "# A model that anyregion trained"


@dataclass(frozen=True)
class TrainingReport:
    """What `fit` did.

    Attributes:
        folder: of the run.
        steps: optimiser steps made so far, in every call.
        total_steps: as configured.
        resumed_from: step at which this call went on; 0 for a new run.
        parameters: how many learned.
        images: how many went through the module in all (an image counts each time).
        seconds: of training in all, of every call.
        losses: the last that were logged.
        validation: the last values of the task's metrics.
        best: the best value of the metric `best`, or None.
        interrupted: whether a signal ended it before its last step.
        set_aside: images that could not be used, and why.
    """

    folder: Path
    steps: int
    total_steps: int
    resumed_from: int
    parameters: int
    images: int
    seconds: float
    losses: dict[str, float] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
    best: float | None = None
    interrupted: bool = False
    set_aside: tuple[SetAside, ...] = ()

    @property
    def images_per_second(self) -> float:
        """Over the whole training."""
        return self.images / self.seconds if self.seconds else 0.0


def write_run_card(
    report: TrainingReport, lines: Mapping[str, str], *, device: str, processes: int
) -> None:
    """Write `README.md` into the run's folder; `lines` state the data and their terms.

    Also into its `model/`, which may leave the run, where the task has written no card of its own.

    Raises:
        AnyRegionError: it cannot be written.
    """
    cost = {
        "steps": f"{report.steps:,} of {report.total_steps:,}",
        "parameters learned": f"{report.parameters:,} ({report.parameters / 1e6:.2f} M)",
        "images seen": f"{report.images:,}",
        "hours": f"{report.seconds / 3600:.2f}",
        "images per second": f"{report.images_per_second:.1f}",
        "device": f"{device}, {processes} process{'es' if processes > 1 else ''}",
    }
    figures = {
        **{f"{name} (training)": f"{value:.5g}" for name, value in report.losses.items()},
        **{name: f"{value:.5g}" for name, value in report.validation.items()},
    }
    tables = [
        *_table("cost", cost),
        *_table("data and terms", lines or {"data": "not stated"}),
        *_table("figures", figures),
    ]
    pointers = (
        "Settings: `config.yaml`. Where it ran: `environment.json`. Course: `curves.png`, "
        "`log.jsonl`."
    )
    # also after an interruption: whoever finds the folder should know what it is
    path = Path(report.folder) / CARD
    model = Path(report.folder) / "model"
    with writing(path):
        write_text(path, "\n".join(["# Training", "", pointers, "", *tables]))
        if model.is_dir() and (not (model / CARD).exists() or _is_run_card(model / CARD)):
            write_text(model / CARD, "\n".join([_MODEL_TITLE, "", *tables]))


def _is_run_card(path: Path) -> bool:
    """Whether a model's card is one that was written here, by an earlier call of the same run."""
    return path.read_text(encoding="utf-8").startswith(_MODEL_TITLE)


def _table(title: str, rows: Mapping[str, str]) -> list[str]:
    cells = [f"| {name} | {value.replace('|', '/')} |" for name, value in rows.items()]
    return [f"| {title} | |", "| --- | --- |", *cells, ""] if cells else []
