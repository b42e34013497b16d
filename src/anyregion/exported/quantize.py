"""An exported model with 8-bit weights, made of one in float32."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

from anyregion.compact.assets import import_onnxruntime
from anyregion.errors import InputError, require
from anyregion.exported.folder import CONFIG, HEAD, TOKENIZER, ExportedModel, read_exported
from anyregion.files import atomic_path, writing
from anyregion.io.vocabulary import load_vocabulary
from anyregion.model_card import VOCABULARY, ModelCard, read_card, write_card
from anyregion.vocabulary import Vocabulary

# products with weights, and the table of pieces; ONNX Runtime runs convolutions sooner in float32
_QUANTIZED = ["MatMul", "Gemm", "Gather"]


def quantize(folder: Path, out: Path) -> ExportedModel:
    """Write a folder anew with the weights of products as 8-bit integers, a scale a column.

    ONNX Runtime's dynamic quantisation: activations are scaled by what they are, pass by pass. The
    head, which is small and gives the embeddings, stays float32.

    Raises:
        InputError: it is 8-bit already, or `out` is the same folder.
        MissingExtraError: without `onnx`.
        CheckpointError: no exported model.
    """
    require("train", "onnx")
    model, card = read_exported(folder), read_card(folder) or ModelCard()
    if model.int8 or out.resolve() == folder.resolve():
        raise InputError(f"{folder}: an exported model in float32 and another folder are needed")
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / CONFIG).unlink(missing_ok=True)
        for name in card.sha256:
            card.check(folder, name)
            with atomic_path(out / name) as temporary:
                if name in (HEAD, TOKENIZER):
                    shutil.copyfile(folder / name, temporary)
                    continue
                _quantize_graph(folder / name, temporary)
        path = folder / VOCABULARY
        names = load_vocabulary(path) if path.is_file() else None
        readme = f"# {model.name}, as ONNX graphs with 8-bit weights\n"
        write_card(
            out,
            card,
            weights=list(card.sha256),
            vocabulary=names if isinstance(names, Vocabulary) else None,
            readme=readme,
        )
        # its own text side gives other embeddings than the one in float32
        text = model.text_fingerprint + ("-int8" if model.has_text else "")
        model = replace(model, int8=True, text_fingerprint=text)
        model.save(out)
    return model


def _quantize_graph(source: Path, target: Path) -> None:
    import onnx

    import_onnxruntime()  # first: it keeps the module from sending anything
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(source)
    # shapes of weights among them, which the quantiser transposes
    del graph.graph.value_info[:]
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # it advises to pre-process, whatever it is given
    try:
        quantize_dynamic(
            graph,
            target,
            op_types_to_quantize=_QUANTIZED,
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
    finally:
        logger.setLevel(level)
