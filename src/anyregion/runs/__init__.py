"""Many images in one run: read ahead, named, drawn, written, and continued where a run stopped."""

from anyregion.runs.pipeline import (
    ProposedRegions,
    RecognizeOptions,
    RegionNamer,
    SameRegions,
    Sample,
    run_pipeline,
)
from anyregion.runs.recognize import OutputOptions, RunReport, recognize_images

__all__ = [
    "OutputOptions",
    "ProposedRegions",
    "RecognizeOptions",
    "RegionNamer",
    "RunReport",
    "SameRegions",
    "Sample",
    "recognize_images",
    "run_pipeline",
]
