"""The run's README: what was learned, from what, at what cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from anyregion.files import atomic_path, writing
from anyregion.training.report import TrainingReport


def write_card(
    report: TrainingReport, about: Mapping[str, str], *, device: str, processes: int
) -> None:
    """Write `README.md` into the run's folder.

    Args:
        about: what the task says of its data and their terms, in its own lines.

    Raises:
        AnyRegionError: it cannot be written.
    """
    rows = {
        "steps": f"{report.steps:,} of {report.steps_wanted:,}",
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
    text = "\n".join(
        [
            "# Training",
            "",
            "Settings: `config.yaml`. Where it ran: `environment.json`. Course: `log.jsonl`.",
            "",
            *_table("cost", rows),
            *_table("data and terms", about or {"data": "not stated"}),
            *_table("figures", figures),
        ]
    )
    path = Path(report.folder) / "README.md"
    with writing(path), atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _table(title: str, rows: Mapping[str, str]) -> list[str]:
    cells = [f"| {name} | {value.replace('|', '/')} |" for name, value in rows.items()]
    return [f"| {title} | |", "| --- | --- |", *cells, ""] if cells else []
