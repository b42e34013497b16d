"""Builders of recognisers, region proposers and feature extractors from the names of models."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from anyregion.baselines.crop import CropEncoder
from anyregion.baselines.dense import DenseEncoder
from anyregion.baselines.embedder import ImageEmbedder
from anyregion.compact.assets import IMAGE_ENCODER, REGION_HEAD, read_manifest
from anyregion.errors import InputError, require
from anyregion.exported.folder import CONFIG as EXPORTED
from anyregion.io.vocabulary import load_vocabulary
from anyregion.model_card import VOCABULARY, ModelCard, read_card
from anyregion.proposals import RegionProposer
from anyregion.recognizer import Recognizer
from anyregion.region_encoder import RegionEncoder
from anyregion.scoring import Score
from anyregion.tile_grids import TileOptions
from anyregion.tiles import TiledEncoder, tiled, tiled_proposer, untiled
from anyregion.vocabulary import Vocabulary

if TYPE_CHECKING:
    from anyregion.compact.proposal_head import ProposalOptions
    from anyregion.data.features import FeatureExtractor
    from anyregion.localizers.protocol import Localizer, TokenSource
    from anyregion.region_trees.proposer import DenseFeatures, TreeOptions

Method: TypeAlias = Literal["regionspot", "crop", "masked-crop", "dense"]
METHODS: tuple[Method, ...] = ("regionspot", "crop", "masked-crop", "dense")
Kind: TypeAlias = Literal["compact", "regionspot", "exported", "vlm"]
# `trained`: by the module trained for regions, which callers name `regionspot` of any model
Use: TypeAlias = Literal["trained", "crop", "masked-crop", "dense"]
Dtype: TypeAlias = Literal["float32", "bfloat16", "float16", "auto"]
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16", "float16", "auto")
Proposer: TypeAlias = str
"""One of `PROPOSERS`, `r2o:WHERE` or `compact+r2o:WHERE`; see `load_proposer`."""
PROPOSERS = ("own", "compact", "sam")
TREES, JOINT = "r2o:", "compact+r2o:"
"""How the proposers begin that need no labels, and those that join them with `compact`'s own."""
# of regions of an image and its tiles that overlap more, by `compact`, the best one stays
TILES_IOU = 0.6
# length in pixels of the smallest tiles of the proposer sam: what SAM sees of an image
SAM_TILE = 1024
# images in one pass through a frozen model on a GPU; a CPU gains nothing from more than one
IMAGES_AT_ONCE = 8


@dataclass(frozen=True)
class ModelInfo:
    """One line of `anyregion models`.

    Attributes:
        name: for the `model`, `localizer` or `vlm` argument.
        role: `built-in`, `localizer` or `vlm`.
        millions: parameters, in millions.
        licence: of the weights.
        extra: what has to be installed; empty for the core.
        here: whether the weights are on this machine; the core's are.
    """

    name: str
    role: str
    millions: float
    licence: str
    extra: str
    here: bool


# well-known weights, as (millions of parameters, licence of the weights as their cards state it);
# any other hub name or folder of the same kinds works too
_LOCALIZERS = {
    "facebook/sam-vit-base": (94, "Apache-2.0"),
    "facebook/sam-vit-large": (312, "Apache-2.0"),
    "facebook/sam-vit-huge": (641, "Apache-2.0"),
    "syscv-community/sam-hq-vit-base": (95, "Apache-2.0"),
    "syscv-community/sam-hq-vit-large": (314, "Apache-2.0"),
    "syscv-community/sam-hq-vit-huge": (643, "Apache-2.0"),
    "facebook/sam2.1-hiera-tiny": (39, "Apache-2.0"),
    "facebook/sam2.1-hiera-small": (46, "Apache-2.0"),
    "facebook/sam2.1-hiera-base-plus": (81, "Apache-2.0"),
    "facebook/sam2.1-hiera-large": (224, "Apache-2.0"),
    "facebook/sam3": (840, "SAM License"),
}
_VLMS = {
    "openai/clip-vit-base-patch32": (151, "MIT"),
    "openai/clip-vit-base-patch16": (150, "MIT"),
    "openai/clip-vit-large-patch14": (428, "MIT"),
    "openai/clip-vit-large-patch14-336": (428, "MIT"),
    "open_clip:RN50/openai": (102, "MIT"),
    "open_clip:ViT-B-16/laion2b_s34b_b88k": (150, "MIT"),
    "facebook/metaclip-b16-400m": (150, "CC-BY-NC-4.0"),
    "google/siglip-base-patch16-224": (203, "Apache-2.0"),
    "google/siglip2-base-patch16-224": (375, "Apache-2.0"),
    "google/siglip2-so400m-patch14-384": (1136, "Apache-2.0"),
    "google/tipsv2-b14": (196, "Apache-2.0"),
    "google/tipsv2-l14": (487, "Apache-2.0"),
    "google/tipsv2-so400m14": (860, "Apache-2.0"),
}


def load_recognizer(
    model: str | Path = "compact",
    *,
    method: Method | None = None,
    localizer: str | Localizer | None = None,
    vlm: str | None = None,
    antialias: bool | None = None,
    device: str = "cpu",
    dtype: Dtype = "float32",
    tiles: int | None = None,
    fast: bool = False,
    cache: Path | Literal["default"] | None = "default",
) -> Recognizer:
    """Build a recogniser.

    Args:
        model: `compact`, the built-in one; a folder that `anyregion train`, `anyregion convert`,
            `anyregion export-onnx` or `save_pretrained` made; a full published RegionSpot
            checkpoint (`.pth`); or a vision-language model, by hub name, folder, file of OpenAI's
            layout, or `open_clip:ARCHITECTURE/TAG`.
        method: `regionspot` is whatever was trained to name regions: RegionSpot's adapter, and also
            `compact`'s own region head, which is no RegionSpot. Unless one is chosen it is that
            where there is one, else `dense` (pooled features).
        localizer, vlm: for RegionSpot, where these two are taken from, if not as it states. A
            localizer may also be an object of your own, see `anyregion.localizers`.
        antialias: for RegionSpot, whether images are squashed for the VLM with antialiasing; None
            for what the model states (True); False is the published predictor's way.
        device: `cpu`, `cuda`, `cuda:1`, `mps`; for `compact` whatever ONNX Runtime here offers.
        dtype: precision of the products in frozen image and text encoders: `float32`, `bfloat16`,
            `float16`, or `auto`, bfloat16 where the device has instructions for it. Weights, a
            localizer's decoder and the adapter stay float32; `compact` has a precision of its own.
        tiles: most tiles of a large image, in which its small regions are seen (see
            `anyregion.tiles.TiledEncoder`); 0 for none. Unless given, 128 for `compact` as trained,
            and 0 for all else, which is the published way. A crop has no use for them.
        fast: `compact` as trained sees images smaller, which takes 0.8 of the time, and names four
            small regions in a hundred less rightly.
        cache: folder of encoded vocabularies; None for no cache.

    Raises:
        InputError: unknown method, or a method, dtype or `fast` that the model cannot serve.
        MissingExtraError: the model needs torch, which is not installed.
        CheckpointError: weights that cannot be used.
    """
    kind, use = _resolve(model, method)
    if fast and (kind != "compact" or use != "trained"):
        raise InputError("only compact as it was trained has a fast way (without --method)")
    if kind == "compact" and vlm is not None:
        raise InputError("compact has a text encoder of its own: name the vlm as the model instead")
    if kind == "compact":
        _check_graph_dtype(dtype)
    if kind == "exported":
        if use != "trained" or localizer is not None or vlm is not None or antialias is not None:
            raise InputError(
                f"{model} is exported to ONNX: it names regions as it was trained to, with its own "
                "localizer and VLM"
            )
        _check_graph_dtype(dtype)
        from anyregion.exported.encoder import ExportedRegionSpot

        exported = ExportedRegionSpot(model, device=device)
        return Recognizer(
            tiled(exported, _vlm_tiles(exported, tiles)),
            vocabulary=_vocabulary(exported.folder),
            card=read_card(exported.folder),
            cache=cache,
        )
    if use == "trained" and kind != "compact":
        encoder, vocabulary, card = _regionspot(
            model,
            kind,
            localizer=localizer,
            vlm=vlm,
            antialias=antialias,
            device=device,
            dtype=dtype,
        )
        encoder = tiled(encoder, _vlm_tiles(getattr(encoder, "vlm", None), tiles))
        return Recognizer(encoder, vocabulary=vocabulary, card=card, cache=cache)
    if use != "trained":
        if antialias is not None:
            raise InputError(f"the method {use} has no choice of antialiasing")
        if localizer is not None:
            raise InputError(f"the method {use} uses no localizer")
        if tiles and use != "dense":
            raise InputError(f"the method {use} cuts out each region: there is no use for tiles")
        embedder = _embedder(model, kind, vlm, device, dtype)
        if use == "dense":
            from anyregion.compact.model import tile_options

            options = tile_options(tiles or 0) if kind == "compact" else _vlm_tiles(embedder, tiles)
            return Recognizer(tiled(DenseEncoder(embedder), options), cache=cache)
        return Recognizer(CropEncoder(embedder, masked=use == "masked-crop"), cache=cache)
    if localizer is not None or antialias is not None:
        raise InputError("compact takes no localizer, and has no choice of antialiasing")
    from anyregion.compact.image_encoder import FAST_SIDE, LONG_SIDE
    from anyregion.compact.model import CompactEncoder, CompactModel, tile_options

    folder = None if str(model) == "compact" else Path(model)
    if folder is None:
        vocabulary, entry = None, read_manifest()[REGION_HEAD]
        card = ModelCard(licence=entry["licence"], terms=entry["data"], origin=entry["command"])
    else:
        vocabulary = _vocabulary(folder)
        if card := read_card(folder):
            for name in card.sha256:
                card.check(folder, name)
    long_side = FAST_SIDE if fast else LONG_SIDE
    compact = CompactEncoder(CompactModel(folder, device=device, long_side=long_side))
    vocabulary = vocabulary or Vocabulary.from_names(compact.calibration.names)
    return Recognizer(
        tiled(compact, tile_options(tiles)), vocabulary=vocabulary, card=card, cache=cache
    )


def load_proposer(
    name: Proposer = "own",
    *,
    localizer: str | Path | None = None,
    recognizer: Recognizer | None = None,
    device: str = "cpu",
    dtype: Dtype = "float32",
    tiles: int | None = None,
    options: ProposalOptions | TreeOptions | None = None,
) -> RegionProposer:
    """Build a proposer: what finds the regions of an image where there are none yet.

    Args:
        name: `compact`, the built-in one; `sam`, automatic masks by a localizer (SAM, SAM-HQ,
            SAM 2.1, SAM 3); `own`, `sam` where there is a localizer, else `compact`; `r2o:WHERE`,
            superpixels joined by the features of WHERE: `compact` (its frozen image encoder),
            `colour` (none), a folder of a run or a backbone, or `timm/NAME@WEIGHTS` (see
            `load_backbone_features`); `compact+r2o:WHERE`, both in one ranking.
        localizer: hub name, folder or file, for `sam`; unless given, that of `recognizer`.
        recognizer: the one that will name the regions; a RegionSpot's localizer is loaded already.
        device, dtype: as for `load_recognizer`; a localizer that is loaded already keeps its own.
        tiles: most tiles of a large image, in which regions are looked for too (see
            `anyregion.tiles.TiledProposer`); 0 for none. Unless given, as many as `recognizer` may
            have, and without one 128 for `compact` and 0 for `sam`.
        options: which regions are proposals: `TreeOptions` for `r2o:WHERE`, `ProposalOptions` for
            `compact`, alone or not.

    Raises:
        InputError: unknown proposer, `sam` without a localizer, others with one.
        MissingExtraError, CheckpointError: as `load_recognizer`.
    """
    if name not in PROPOSERS and not name.startswith((TREES, JOINT)):
        listed = ", ".join((*PROPOSERS, f"{TREES}WHERE", f"{JOINT}WHERE"))
        raise InputError(f"no proposer {name!r}: there are {listed}")
    encoder = untiled(recognizer.encoder) if recognizer else None
    in_tiles: TiledEncoder | None = None
    if recognizer is not None and isinstance(recognizer.encoder, TiledEncoder):
        in_tiles = recognizer.encoder
    if tiles is None and recognizer is not None:
        tiles = in_tiles.options.limit if in_tiles else 0
    if name.startswith((TREES, JOINT)):
        if localizer is not None:
            raise InputError(f"the proposer {name} uses no localizer")
        if recognizer is None and dtype not in ("float32", "auto"):
            raise InputError(f"dtype {dtype}: the features of {name} are computed in float32")
        return _tree_proposer(
            name,
            encoder,
            options,
            device=device,
            tiles=tiles,
            in_tiles=in_tiles,
        )
    loaded = getattr(encoder, "localizer", None)  # a RegionSpot's
    if name == "compact" or (name == "own" and loaded is None and localizer is None):
        if localizer is not None:
            raise InputError("the proposer compact uses no localizer")
        if loaded is None:  # else the dtype is that of the RegionSpot which names the regions
            _check_graph_dtype(dtype)
        from anyregion.compact.model import CompactEncoder, CompactModel, tile_options
        from anyregion.compact.proposal_head import ProposalOptions
        from anyregion.compact.proposers import CompactProposer

        # of the same model an image is encoded once, for its proposals and for their names
        compact = encoder if isinstance(encoder, CompactEncoder) else None
        model = compact.model if compact else CompactModel(device=device)
        if options is not None and not isinstance(options, ProposalOptions):
            raise InputError("the proposer compact takes ProposalOptions")
        proposer = CompactProposer(model, encoder=compact, options=options)
        return tiled_proposer(proposer, tile_options(tiles), nms_iou=TILES_IOU, encoder=in_tiles)
    if options is not None:
        raise InputError("the proposer sam has options of its own")
    if loaded is None and localizer is None:
        raise InputError("the proposer sam needs a localizer: SAM's hub name, folder or file")
    require("torch", "torch", "torchvision", "transformers")
    from anyregion.localizers.automatic import AutomaticMasks
    from anyregion.localizers.loading import load_localizer
    from anyregion.localizers.segmenter import PromptableSegmenter
    from anyregion.regionspot.encoder import RegionSpotEncoder
    from anyregion.torch_utils.devices import resolve_dtype

    segmenter = loaded
    if localizer is not None:
        segmenter = load_localizer(
            localizer, device=device, encoder_dtype=resolve_dtype(dtype, device)
        )
    if not isinstance(segmenter, PromptableSegmenter):
        title = getattr(segmenter, "name", segmenter)
        raise InputError(f"the localizer {title} makes no automatic masks")
    # with the recogniser's own localizer its embedding of the image serves for both
    shared = isinstance(encoder, RegionSpotEncoder) and segmenter is loaded
    automatic = AutomaticMasks(segmenter, encoder=encoder if shared else None)
    return tiled_proposer(
        automatic,
        TileOptions(limit=tiles or 0, side=SAM_TILE, whole=SAM_TILE),
        nms_iou=automatic.options.crop_nms_thresh,
        encoder=in_tiles,
    )


def _tree_proposer(
    name: Proposer,
    encoder: RegionEncoder | None,
    options: ProposalOptions | TreeOptions | None,
    *,
    device: str,
    tiles: int | None,
    in_tiles: TiledEncoder | None,
) -> RegionProposer:
    """`r2o:WHERE` or `compact+r2o:WHERE`; as for `load_proposer`, `encoder` is untiled."""
    from anyregion.compact.model import CompactEncoder, CompactModel, tile_options
    from anyregion.compact.proposal_head import ProposalOptions
    from anyregion.compact.proposers import CompactTreeProposer, JointProposer
    from anyregion.region_trees.proposer import ColourFeatures, TreeOptions, TreeProposer

    joint, where = name.startswith(JOINT), name.partition(TREES)[2]
    if options is None:
        options = ProposalOptions() if joint else TreeOptions()
    if isinstance(options, ProposalOptions) != joint:
        raise InputError(f"the proposer {name} takes {'Proposal' if joint else 'Tree'}Options")
    features: DenseFeatures | None = None
    if where == "colour":
        features = ColourFeatures()
    elif where != "compact":
        require("torch", "torch")
        from anyregion.backbones.dense import load_backbone_features

        features = load_backbone_features(where, device=device)
    compact = encoder if isinstance(encoder, CompactEncoder) else None
    model = compact.model if compact else None
    if isinstance(options, ProposalOptions):
        model = model or CompactModel(device=device)
        proposer: RegionProposer = JointProposer(
            model, encoder=compact, options=options, features=features
        )
    elif features is None:
        model = model or CompactModel(device=device)
        proposer = CompactTreeProposer(model, encoder=compact, options=options)
    else:
        proposer = TreeProposer(features, options)
    iou = TILES_IOU if joint else options.nms_iou
    return tiled_proposer(proposer, tile_options(tiles or 0), nms_iou=iou, encoder=in_tiles)


def load_extractor(
    model: str | Path | None = None,
    *,
    localizer: str | Localizer | None = None,
    vlm: str | None = None,
    features: bool = False,
    image_size: int | None = None,
    antialias: bool | None = None,
    source: TokenSource | None = None,
    device: str = "cpu",
    dtype: Dtype = "float32",
) -> FeatureExtractor:
    """Build an extractor of frozen features, for the store and for training on the fly.

    Args:
        model: `compact`, which is the default where neither of the two below is given; or a
            RegionSpot folder or checkpoint, whose own localizer and VLM are taken; or a folder with
            an image encoder that `train compact --compact.image_encoder` made.
        localizer: SAM's hub name, folder or file, a name of `regionspot.prompting`, or a localizer
            of your own, for tokens.
        vlm: CLIP's, for feature maps.
        features: also the VLM's feature map; `compact` has nothing else.
        image_size: side of the VLM's input in pixels; None for its own.
        antialias: how images are squashed for the VLM; None for what the model states (True).
        source: which of the localizer's tokens; None for what the model states (`decoder`).
        device: `cpu`, `cuda`, ...; for `compact` whatever ONNX Runtime here offers.
        dtype: see `load_recognizer`.

    Raises:
        InputError: a choice that makes no sense, or models that cannot be had.
        MissingExtraError: torch is not installed.
        CheckpointError: weights that cannot be used.
    """
    own = model is not None and (Path(model) / IMAGE_ENCODER).is_file()
    if str(model) == "compact" or own or (model is None and localizer is None and vlm is None):
        if localizer or vlm or image_size or source or antialias is not None:
            raise InputError(
                "compact has an image encoder of its own: no localizer, no VLM and no token source"
            )
        _check_graph_dtype(dtype)
        from anyregion.compact.model import CompactExtractor, CompactModel

        return CompactExtractor(CompactModel(Path(str(model)) if own else None, device=device))
    require("torch", "torch", "torchvision", "transformers")
    from anyregion.regionspot.extractor import RegionSpotExtractor
    from anyregion.regionspot.prompting import load_region_localizer
    from anyregion.torch_utils.devices import resolve_dtype
    from anyregion.vlms.loading import load_vlm

    images_at_once = 1 if device == "cpu" else IMAGES_AT_ONCE
    if model is not None:
        from anyregion.regionspot.encoder import RegionSpotEncoder

        if image_size:
            raise InputError(f"{model} states the size of its images itself")
        encoder = load_recognizer(
            model,
            method="regionspot",
            localizer=localizer,
            vlm=vlm,
            antialias=antialias,
            device=device,
            dtype=dtype,
        ).encoder
        if not isinstance(encoder, RegionSpotEncoder):
            raise InputError(f"{model} is no RegionSpot model")
        return RegionSpotExtractor(
            encoder.localizer,
            encoder.vlm if features else None,
            source=source or encoder.source,
            antialias=encoder.antialias,
            images_at_once=images_at_once,
        )
    # a VLM without feature maps would be loaded for nothing, and feature maps need one
    if features != (vlm is not None):
        raise InputError(
            "tokens need no VLM: leave it out, or ask for the feature map too (--features)"
            if vlm
            else "the feature map needs a VLM: name one"
        )
    if source is not None and localizer is None:
        raise InputError("a token source is the localizer's: name one")
    precision = resolve_dtype(dtype, device)
    if isinstance(localizer, str):
        localizer = load_region_localizer(localizer, device=device, encoder_dtype=precision)
    return RegionSpotExtractor(
        localizer,
        None
        if vlm is None
        else load_vlm(vlm, device=device, image_size=image_size, dtype=precision),
        source=source or "decoder",
        antialias=antialias is not False,
        images_at_once=images_at_once,
    )


def uses_localizer(model: str | Path, method: Method | None = None) -> bool:
    """Whether `load_recognizer` would take a localizer for this model and method."""
    kind, use = _resolve(model, method)
    return use == "trained" and kind not in ("compact", "exported")


def default_score(model: str | Path, method: Method | None = None) -> Score:
    """How `load_recognizer` of the same would score where the caller does not choose."""
    return "probability" if _resolve(model, method) == ("compact", "trained") else "softmax"


def list_models() -> list[ModelInfo]:
    """The built-in model and the well-known weights that the package can use."""
    rows = [ModelInfo("compact", "built-in", 27.4, "Apache-2.0", "", True)]
    for role, table in (("localizer", _LOCALIZERS), ("vlm", _VLMS)):
        rows += [
            ModelInfo(name, role, millions, licence, "torch", _is_cached(name))
            for name, (millions, licence) in table.items()
        ]
    return rows


def _resolve(model: str | Path, method: Method | None) -> tuple[Kind, Use]:
    """What a model is, and how it is used.

    A folder is of the kind whose file it has; all else names a VLM, which may be on a hub.
    """
    if method is not None and method not in METHODS:
        raise InputError(f"no method {method!r}: there are {', '.join(METHODS)}")
    path = Path(model)
    kind: Kind = "vlm"
    if str(model) == "compact" or (path / REGION_HEAD).is_file():
        kind = "compact"
    elif (path / EXPORTED).is_file():
        kind = "exported"
    elif (path / "adapter.safetensors").is_file() or (path.is_file() and path.suffix == ".pth"):
        kind = "regionspot"
    elif "regionspot" in str(model).casefold() and not path.exists():
        # no hub has it under any name: to ask one takes half a minute
        raise InputError(
            f"{model}: there is no such file or folder. RegionSpot's published weights (CC BY-NC "
            "4.0) do not come with this package: download a checkpoint as the authors' repository "
            "says (github.com/Surrey-UP-Lab/RegionSpot), run "
            "`anyregion convert CHECKPOINT.pth FOLDER`, and give FOLDER as the model"
        )
    # what was trained is used as trained, unless a training-free method is named
    if method == "regionspot" or (method is None and kind != "vlm"):
        return kind, "trained"
    return kind, method or "dense"


def _regionspot(
    model: str | Path,
    kind: Kind,
    *,
    localizer: str | Localizer | None,
    vlm: str | None,
    antialias: bool | None,
    device: str,
    dtype: Dtype,
) -> tuple[RegionEncoder, Vocabulary | None, ModelCard | None]:
    """The encoder, the names and the card of a folder or a published checkpoint."""
    if kind == "vlm":
        raise InputError(
            f"{model} is no RegionSpot model: give a folder made by `anyregion train`, "
            "`anyregion convert` or save_pretrained, or a published checkpoint (.pth)"
        )
    require("torch", "torch", "torchvision", "transformers")
    from anyregion.torch_utils.devices import resolve_dtype

    path, precision = Path(model), resolve_dtype(dtype, device)
    if path.is_dir():
        from anyregion.regionspot.encoder import RegionSpotEncoder

        encoder = RegionSpotEncoder.from_pretrained(
            path,
            localizer=localizer,
            vlm=vlm,
            antialias=antialias,
            device=device,
            dtype=precision,
        )
        return encoder, _vocabulary(path), read_card(path)
    from anyregion.regionspot.checkpoint import load_published

    # one file, which states neither names nor a licence
    if localizer or vlm:
        raise InputError(f"{path} carries its own SAM and CLIP; convert it to use others")
    encoder = load_published(path, device=device, dtype=precision, antialias=antialias is not False)
    return encoder, None, None


def _check_graph_dtype(dtype: Dtype) -> None:
    if dtype not in ("float32", "auto"):
        raise InputError(
            f"dtype {dtype}: graphs of ONNX have a precision of their own; a dtype is for torch's "
            "models"
        )


def _vlm_tiles(vlm: object, limit: int | None) -> TileOptions:
    """A VLM's square input decides: it shows less of an image than a localizer's."""
    side = int(getattr(vlm, "image_size", 224))
    return TileOptions(limit=limit or 0, side=side, whole=side)


def known_names(model: str | Path) -> Vocabulary | None:
    """The names that a trained model's folder states, or None; a model by its name states none."""
    return _vocabulary(Path(model)) if Path(model).is_dir() else None


def _vocabulary(folder: Path) -> Vocabulary | None:
    """The names that a model's folder knows, or None."""
    path = folder / VOCABULARY
    vocabulary = load_vocabulary(path) if path.is_file() else None
    return vocabulary if isinstance(vocabulary, Vocabulary) else None


def _embedder(
    model: str | Path, kind: Kind, vlm: str | None, device: str, dtype: Dtype
) -> ImageEmbedder:
    if kind == "compact":
        from anyregion.compact.model import CompactEmbedder, CompactModel

        return CompactEmbedder(CompactModel(device=device))
    require("torch", "torch", "torchvision", "transformers")
    from anyregion.torch_utils.devices import resolve_dtype
    from anyregion.vlms.loading import load_vlm

    precision = resolve_dtype(dtype, device)
    if kind == "vlm":
        return load_vlm(vlm or str(model), device=device, dtype=precision)
    from anyregion.regionspot.pretrained import read_config, resolve_part

    if Path(model).is_file():
        raise InputError(f"{model} is a RegionSpot checkpoint: convert it, then use its folder")
    config = read_config(Path(model))
    return load_vlm(
        vlm or resolve_part(Path(model), config.vlm),
        device=device,
        image_size=config.vlm_image_size,
        dtype=precision,
    )


def _is_cached(name: str) -> bool:
    """Whether the hub's cache on this machine holds the model's weights."""
    if name.startswith("open_clip:") or find_spec("huggingface_hub") is None:
        return False
    from huggingface_hub import try_to_load_from_cache

    files = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json")
    return any(isinstance(try_to_load_from_cache(name, file), str) for file in files)
