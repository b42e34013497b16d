"""Figures of models on annotated images, and of backbones on labelled ones."""

from typing import TYPE_CHECKING

from anyregion.lazy import attach

if TYPE_CHECKING:
    from anyregion.evaluation.regions.calibration import (
        evaluate_calibration as evaluate_calibration,
    )
    from anyregion.evaluation.regions.classification import (
        evaluate_classification as evaluate_classification,
    )
    from anyregion.evaluation.regions.detection import evaluate_detection as evaluate_detection
    from anyregion.evaluation.regions.inputs import EvaluationOptions as EvaluationOptions
    from anyregion.evaluation.regions.mask_quality import evaluate_masks as evaluate_masks
    from anyregion.evaluation.regions.proposal_quality import (
        evaluate_proposals as evaluate_proposals,
    )
    from anyregion.evaluation.regions.teaching import TeachingOptions as TeachingOptions
    from anyregion.evaluation.regions.teaching import evaluate_teaching as evaluate_teaching

__getattr__, __dir__ = attach(
    __name__,
    {
        "regions.calibration": "evaluate_calibration",
        "regions.classification": "evaluate_classification",
        "regions.detection": "evaluate_detection",
        "regions.inputs": "EvaluationOptions",
        "regions.mask_quality": "evaluate_masks",
        "regions.proposal_quality": "evaluate_proposals",
        "regions.teaching": "TeachingOptions evaluate_teaching",
    },
)
