"""Export for detectron2's ResNet backbones.

detectron2 loads a dict `{"model", "__author__", "matching_heuristics"}`: with the last, names are
matched to the model's by their ends, so that `res2.0.conv1.weight` finds
`backbone.bottom_up.res2.0.conv1.weight`.
"""

from __future__ import annotations

from pathlib import Path

import torch

from anyregion.backbones.encoder import Encoder
from anyregion.backbones.export.comparison import (
    Export,
    difference,
    features,
    noise,
    written_file,
)
from anyregion.backbones.export.detectron2_layout import (
    documented_shapes,
    run,
    settings_of,
    settings_yaml,
)
from anyregion.backbones.export.libraries import renamed
from anyregion.backbones.key_maps import family_of
from anyregion.errors import CheckpointError, InputError
from anyregion.files import atomic_path, writing
from anyregion.torch_utils.weights import compare_shapes, read_state_dict

_FIRST = b"MODEL:\n"  # of settings as they are written here; a recipe of ours begins otherwise


def export_detectron2(encoder: Encoder, out: Path) -> Export:
    """For detectron2's `build_resnet_backbone`; its settings lie beside it, as `.yaml`.

    Raises as `export_encoder`.
    """
    family = family_of(encoder.name.partition("/")[0], encoder.body.state_dict())
    if family is None or family.name != "resnet":
        raise InputError(
            f"{encoder.name}: detectron2 has plain ResNets 18 to 152, ResNeXts and wide ResNets"
        )
    state = {
        name: tensor
        for name, tensor in renamed(encoder, "detectron2").items()
        if not name.endswith("num_batches_tracked")
    }
    settings = {
        "MODEL.WEIGHTS": out.name,
        "MODEL.BACKBONE.NAME": "build_resnet_backbone",
        **settings_of(state, encoder.name),
        "INPUT.FORMAT": "RGB",
        "MODEL.PIXEL_MEAN": [round(255 * value, 4) for value in encoder.mean],
        "MODEL.PIXEL_STD": [round(255 * value, 4) for value in encoder.std],
    }
    if problem := compare_shapes(state, documented_shapes(settings)):
        raise InputError(f"{encoder.name}: not a ResNet as detectron2 has it: {problem}")
    described = out.with_suffix(".yaml")
    if described.is_file() and not described.read_bytes().startswith(_FIRST):
        raise InputError(
            f"{described}: would be written beside {out.name}, but holds something else; give "
            "another name"
        )
    content = {"model": state, "__author__": "anyregion", "matching_heuristics": True}
    with written_file(out, content, tensors_alone=False) as temporary:
        back = read_state_dict(temporary)
        if problem := compare_shapes(back, documented_shapes(settings)):
            raise CheckpointError(f"{out}: {problem}")
        image = noise(encoder)
        with torch.no_grad():
            theirs = run(back, settings, image)
        share = difference(features(encoder, image), theirs, f"{out}: detectron2's ResNet")
    with writing(described), atomic_path(described) as temporary:
        temporary.write_text(settings_yaml(settings), encoding="utf-8")
    return Export(
        path=out,
        format="detectron2",
        architecture=f"build_resnet_backbone, depth {settings['MODEL.RESNETS.DEPTH']}",
        opened=f"--config-file {described.name} (or these settings in your own)",
        difference=share,
        settings=settings,
    )
