"""Vision-language models of every kind, built small and random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from transformers import CONFIG_MAPPING

from anyregion.vlms.loading import load_vlm
from anyregion.vlms.model import FrozenVLM
from anyregion.vlms.open_clip import wrap_open_clip
from anyregion.vlms.openai_clip import clip_from_openai_state_dict
from anyregion.vlms.protocol import VlmOptions

TEXTS = ["a photo of a cat.", "dog", "a black and white photo of the traffic light.", "dog", "été"]


def photos(count: int = 3) -> list[Any]:
    rng = np.random.default_rng(0)
    sizes = [(40, 60), (64, 48), (33, 90)]
    return [rng.integers(0, 256, (*sizes[i % 3], 3), dtype=np.uint8) for i in range(count)]


def small_open_clip(name: str, **vision: Any) -> Any:
    torch.manual_seed(0)
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
    model = open_clip.CLIP(48, vision, text, quick_gelu=True)
    for parameter in model.parameters():
        # fresh batch norms and positions say nothing; every part should matter
        if parameter.ndim < 2:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


VIT = {"image_size": 32, "patch_size": 8, "width": 128, "layers": 3}
RESNET = {"image_size": 64, "layers": (1, 1, 1, 1), "width": 8, "head_width": 64}


def openai_clip(**options: Any) -> FrozenVLM:
    weights = small_open_clip("vit", **VIT).state_dict()
    return clip_from_openai_state_dict(weights, "vit", VlmOptions(**options))


def open_clip_vit(**options: Any) -> FrozenVLM:
    model = small_open_clip("vit", **VIT)
    return wrap_open_clip(model, open_clip.SimpleTokenizer(), "vit", VlmOptions(**options))


def openai_resnet(**options: Any) -> FrozenVLM:
    weights = small_open_clip("rn", **RESNET).state_dict()
    return clip_from_openai_state_dict(weights, "rn", VlmOptions(**options))


def write_tokenizer(folder: Path, *, clip: bool) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPTokenizer, PreTrainedTokenizerFast

    if clip:
        bpe = open_clip.SimpleTokenizer()
        vocab = dict(bpe.encoder)
        vocab["<|startoftext|>"] = vocab.pop("<start_of_text>")
        vocab["<|endoftext|>"] = vocab.pop("<end_of_text>")
        CLIPTokenizer(vocab=vocab, merges=list(bpe.bpe_ranks)).save_pretrained(folder)
        return
    words = ["<pad>", "</s>", "<unk>", "a", "photo", "of", "cat", "dog", "this", "is"]
    words += [f"w{i}" for i in range(len(words), 64)]
    model = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model.post_processor = processors.TemplateProcessing("$A </s>", None, [("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


TOWER = {"intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 2}


def write_folder(folder: Path, kind: str) -> Path:
    import transformers as t

    torch.manual_seed(1)
    vision = {**TOWER, "hidden_size": 48, "image_size": 32, "patch_size": 8}
    text = {**TOWER, "hidden_size": 48}
    if kind in ("clip", "metaclip_2"):
        build, config = {
            "clip": (t.CLIPModel, t.CLIPConfig),
            "metaclip_2": (t.MetaClip2Model, t.MetaClip2Config),
        }[kind]
        # 2 is what the hub's old configurations claim; the model then reads the largest id
        text |= {"vocab_size": 49408, "eos_token_id": 2 if kind == "clip" else 49407}
        model = build(config(vision_config=vision, text_config=text, projection_dim=40))
    elif kind == "tipsv2":
        vision |= {"num_hidden_layers": 3, "mlp_ratio": 2, "num_register_tokens": 1}
        del vision["intermediate_size"]
        text |= {"vocab_size": 64, "max_position_embeddings": 16}
        model = t.Tipsv2Model(t.Tipsv2Config(vision_config=vision, text_config=text))
        for parameter in model.vision_model.embeddings.parameters():
            torch.nn.init.normal_(parameter, std=0.3)  # the second class token begins at nothing
    else:
        build, config = {
            "siglip": (t.SiglipModel, t.SiglipConfig),
            "siglip2": (t.Siglip2Model, t.Siglip2Config),
        }[kind]
        text |= {"vocab_size": 64, "max_position_embeddings": 16}
        if kind == "siglip2":
            del vision["image_size"]
            vision["num_patches"] = 16
        model = build(config(vision_config=vision, text_config=text))
        torch.nn.init.normal_(model.text_model.head.bias)
    model.save_pretrained(folder)
    write_tokenizer(folder, clip=kind in ("clip", "metaclip_2"))
    return folder


# the oldest `transformers` that the package runs with has no TIPSv2 yet
NEWEST = ("tipsv2",) if "tipsv2" in CONFIG_MAPPING else ()
FOLDERS = ("clip", "metaclip_2", "siglip", "siglip2", *NEWEST)
MODELS = ("openai", "openai-rn", "open_clip", *FOLDERS)


def load(kind: str, folders: dict[str, Path], **options: Any) -> FrozenVLM:
    builders = {"openai": openai_clip, "openai-rn": openai_resnet, "open_clip": open_clip_vit}
    vlm = builders[kind](**options) if kind in builders else load_vlm(folders[kind], **options)
    assert isinstance(vlm, FrozenVLM)
    return vlm
