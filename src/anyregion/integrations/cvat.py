"""Functions for CVAT's auto-annotation API: regions found and named, or outlined from prompts.

For `cvat-cli task auto-annotate ID --function-module anyregion.integrations.cvat`, whose options
`-p name=type:value` are `CvatFunctionOptions`. It calls `create`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from anyregion import factory
from anyregion.errors import AnyRegionError, InputError, require
from anyregion.images import read_image, size_of
from anyregion.integrations.cvat_server import CvatConnection, CvatServer
from anyregion.integrations.cvat_shapes import mask_points
from anyregion.io.outlines import single_outline
from anyregion.io.vocabulary import load_vocabulary
from anyregion.prompts import clicked_region
from anyregion.proposals import DuplicateOptions
from anyregion.recognizer import Recognizer, VocabularyLike
from anyregion.runs.pipeline import (
    ProposedRegions,
    RecognizeOptions,
    RegionNamer,
    Sample,
    run_pipeline,
)

if TYPE_CHECKING:
    from cvat_sdk.auto_annotation import (
        DetectionFunctionContext,
        DetectionFunctionSpec,
        InteractionFunctionContext,
        InteractionFunctionSpec,
        InteractionPrompts,
        InteractionResultShape,
    )

Kind = Literal["detection", "interaction"]
Shapes = Literal["rectangle", "polygon", "mask"]
TOLERANCE = 0.5
"""Pixels that an outline may lie from its mask's edge; at a half no pixel changes sides."""

log = logging.getLogger("anyregion.cvat")


@dataclass(frozen=True, kw_only=True)
class CvatFunctionOptions:
    """What `-p name=type:value` may state.

    Attributes:
        kind: `detection` finds and names regions; `interaction` outlines what points and a box
            show.
        vocabulary: the names, as `load_vocabulary` takes them: `cat, dog`, a file, `coco`.
        task: a task's number, whose labels are the names in place of `vocabulary`.
        server: where that task is; None for the saved profile's server, else http://localhost.
        shapes: what a found region is: `rectangle`, `polygon` or `mask`.
        score_attribute: an attribute of this name gets the score as a text; every label of the
            task that is in the vocabulary needs it. None for none.
        min_objectness, most: which regions are found (see `ProposalOptions`); None for the model's.
        model, method, localizer, vlm, device, tiles: see `load_recognizer`.
    """

    kind: Kind = "detection"
    vocabulary: str | None = None
    task: int | None = None
    server: str | None = None
    shapes: Shapes = "rectangle"
    score_attribute: str | None = None
    min_objectness: float | None = None
    most: int | None = None
    model: str = "compact"
    method: factory.Method | None = None
    localizer: str | None = None
    vlm: str | None = None
    device: str = "cpu"
    tiles: int | None = None

    def __post_init__(self) -> None:
        for name, choices in (("kind", get_args(Kind)), ("shapes", get_args(Shapes))):
            if getattr(self, name) not in choices:
                raise InputError(
                    f"{name} {getattr(self, name)!r}: there are {', '.join(map(str, choices))}"
                )

    def load(self) -> Recognizer:
        """The recogniser."""
        return factory.load_recognizer(
            self.model,
            method=self.method,
            localizer=self.localizer,
            vlm=self.vlm,
            device=self.device,
            tiles=self.tiles,
        )


def create(**parameters: Any) -> DetectionFunction | InteractionFunction:
    """The function that `CvatFunctionOptions` describe.

    Raises:
        InputError: an unknown parameter, or no names.
        MissingExtraError: cvat-sdk is not installed.
    """
    require("cvat", "cvat_sdk")
    known = [f.name for f in fields(CvatFunctionOptions)]
    unknown = sorted(parameters.keys() - set(known))
    if unknown:
        raise InputError(f"no parameter {unknown[0]!r}: there are {', '.join(known)}")
    options = CvatFunctionOptions(**parameters)
    if options.kind == "interaction":
        return InteractionFunction(options.load())
    names = _names(options)
    return DetectionFunction(options.load(), names, options)


def _names(options: CvatFunctionOptions) -> VocabularyLike:
    """The vocabulary. A function states its labels before it sees a task, so they are needed now.

    Raises:
        InputError: neither a vocabulary nor a task, or both.
    """
    if (options.vocabulary is None) == (options.task is None):
        raise InputError(
            "give the names, -p vocabulary=str:NAMES_OR_FILE, or a task whose labels are the "
            "names, -p task=int:ID (with -p server=str:HOST); not both"
        )
    if options.vocabulary is not None:
        return load_vocabulary(options.vocabulary)
    assert options.task is not None
    server = CvatServer.connect(CvatConnection(host=options.server))
    labels = server.target(options.task).labels
    server.close()
    names = [label.name for label in labels if label.fits(options.shapes)]
    if not names:
        raise InputError(f"task {options.task}: no label of it can be a {options.shapes}")
    return names


class DetectionFunction:
    """Finds regions of anything and names them: cvat-sdk's `DetectionFunction`.

    Args:
        recognizer: the model.
        vocabulary: the names, which are the labels that the function states.
        options: what regions become.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        vocabulary: VocabularyLike,
        options: CvatFunctionOptions | None = None,
    ) -> None:
        self.options = options or CvatFunctionOptions()
        self.recognizer = recognizer
        self.vocabulary = recognizer.encode_vocabulary(vocabulary)
        source = ProposedRegions(options=self._proposal_options())
        self._proposer = source.load(recognizer)
        self._name = RegionNamer(
            recognizer,
            self.vocabulary,
            RecognizeOptions(top_k=1, masks=self.options.shapes != "rectangle", batch_size=1),
            use_masks=False,
            duplicates=DuplicateOptions(),
        )

    def _proposal_options(self) -> Any:
        from anyregion.compact.proposal_head import ProposalOptions

        stated = {"limit": self.options.most, "min_score": self.options.min_objectness}
        changes: dict[str, Any] = {k: v for k, v in stated.items() if v is not None}
        return ProposalOptions(**changes) if changes else None

    @cached_property
    def spec(self) -> DetectionFunctionSpec:
        """A label for each name, in the vocabulary's order."""
        import cvat_sdk.auto_annotation as cvataa

        attribute = self.options.score_attribute
        attributes = [cvataa.text_attribute_spec(attribute, 0)] if attribute else []
        return cvataa.DetectionFunctionSpec(
            labels=[
                cvataa.label_spec(name, i, type=self.options.shapes, attributes=attributes)
                for i, name in enumerate(self.vocabulary.vocabulary.names)
            ]
        )

    def detect(self, context: DetectionFunctionContext, image: Any) -> list[Any]:
        """The regions of one image, named. An image that cannot be used has none, and is logged."""
        shapes: list[Any] = []
        sample = Sample(context.frame_name, image, None)
        threshold = context.conf_threshold or 0.0
        batches = run_pipeline(
            [sample], self.recognizer.encoder, self._name, proposer=self._proposer, batch_size=1
        )
        for batch in batches:
            for item in batch.set_aside:
                # the driver writes after the last image: one that is broken must not cost the rest
                log.warning("%s", item)
            for _, predictions in batch.results:
                for row, prediction in enumerate(predictions):
                    refused = predictions.refused is not None and predictions.refused[row]
                    if refused or prediction.score < threshold:
                        continue
                    label = int(predictions.indices[row, 0])
                    shape = self._shape(label, prediction, convert=context.conv_mask_to_poly)
                    if shape is not None:
                        shapes.append(shape)
        return shapes

    def _shape(self, label: int, prediction: Any, *, convert: bool) -> Any:
        """A shape of the kind that was asked for; None where its mask is empty."""
        import cvat_sdk.auto_annotation as cvataa
        from cvat_sdk.attributes import attribute_vals_from_dict

        more: dict[str, Any] = {}
        if self.options.score_attribute:
            more["attributes"] = attribute_vals_from_dict({0: f"{prediction.score:.3f}"})
        if self.options.shapes == "rectangle":
            return cvataa.rectangle(label, prediction.box.tolist(), **more)
        try:
            points = None if prediction.mask is None else mask_points(prediction.mask)
        except InputError:
            return None
        if points is None:
            raise AnyRegionError(
                f"{self.recognizer.encoder.name} makes no masks: -p shapes=str:rectangle"
            )
        if self.options.shapes == "polygon" or convert:
            outline = single_outline(prediction.mask, tolerance=TOLERANCE)
            return cvataa.polygon(label, outline, **more)
        return cvataa.mask(label, [float(v) for v in points], **more)


@dataclass(frozen=True, eq=False)
class PreprocessedImage:
    """An image that was encoded, for any number of prompts."""

    encoded: Any
    size: tuple[int, int]


class InteractionFunction:
    """Outlines what points and a box show: cvat-sdk's `InteractionFunction`.

    Args:
        recognizer: a model that makes masks; its names are not needed.
    """

    def __init__(self, recognizer: Recognizer) -> None:
        self.recognizer = recognizer

    @cached_property
    def spec(self) -> InteractionFunctionSpec:
        """Points of both kinds and a box are taken, and none of them alone is needed."""
        import cvat_sdk.auto_annotation as cvataa

        return cvataa.InteractionFunctionSpec(
            min_pos_points=0, min_neg_points=0, min_bounding_boxes=0
        )

    def preprocess_image(
        self, context: InteractionFunctionContext, image: Any
    ) -> PreprocessedImage:
        """Encode an image, once for all prompts."""
        pixels = read_image(image)
        return PreprocessedImage(
            self.recognizer.encoder.encode_images([pixels])[0], size_of(pixels)
        )

    def detect(
        self,
        context: InteractionFunctionContext,
        pp_image: PreprocessedImage,
        prompts: InteractionPrompts,
    ) -> list[InteractionResultShape]:
        """The mask of the one thing that the prompts show; nothing for what shows none."""
        import cvat_sdk.auto_annotation as cvataa
        from cvat_sdk.attributes import attribute_vals_from_dict

        corners = prompts.bounding_box
        regions = clicked_region(
            pp_image.size,
            box=None if corners is None else (*corners[0], *corners[1]),
            inside=prompts.pos_points,
            outside=prompts.neg_points,
        )
        if regions is None:
            return []
        (embedded,) = self.recognizer.encoder.embed_regions(
            [pp_image.encoded], [regions], masks=True
        )
        if embedded.masks is None:
            raise AnyRegionError(f"{self.recognizer.encoder.name} makes no masks")
        try:
            points = mask_points(embedded.masks[0])
        except InputError:
            return []
        attributes = []
        if embedded.mask_scores is not None:
            confidence = float(np.clip(embedded.mask_scores[0], 0, 1))
            key = int(cvataa.InteractionResultAttributes.CONFIDENCE)
            attributes = attribute_vals_from_dict({key: f"{confidence:.4f}"})
        return [
            cvataa.InteractionResultShape(
                type="mask", points=[float(v) for v in points], attributes=attributes
            )
        ]
