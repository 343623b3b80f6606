"""Attention over pictures: ViT and Swin as transformers, torchvision and timm write them."""

from __future__ import annotations

from functools import partial
from typing import Any

from bench.zoo.network import TORCHSCRIPT, TRANSFORMER, Entry, Network, called, image, vision


def vit(attention: str, **config: Any) -> Network:
    from transformers import ViTConfig, ViTForImageClassification

    model = ViTForImageClassification(ViTConfig(attn_implementation=attention, **config))
    return called(model, image(model.config.image_size, "pixel_values"), "logits")


def swin_hf(attention: str, **config: Any) -> Network:
    from transformers import SwinConfig, SwinForImageClassification

    model = SwinForImageClassification(SwinConfig(attn_implementation=attention, **config))
    return called(model, image(model.config.image_size, "pixel_values"), "logits")


def vit_torchvision(size: int, **config: Any) -> Network:
    """nn.MultiheadAttention: packed in_proj, and tensors laid out sequence first."""
    from torchvision.models import VisionTransformer

    return vision(VisionTransformer(image_size=size, **config), size)


def vit_timm(size: int, **config: Any) -> Network:
    """Fused qkv: one Linear, a Reshape to five axes, then unbind."""
    from timm.models.vision_transformer import VisionTransformer

    return vision(VisionTransformer(img_size=size, **config), size)


def swin_torchvision(size: int, **config: Any) -> Network:
    from torchvision.models import SwinTransformer

    return vision(SwinTransformer(**config), size)


_VIT = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 112,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 10,
}
_SWIN_HF = {
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 24,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
    "num_labels": 10,
}
_SWIN_HF_FULL = {
    "image_size": 224,
    "patch_size": 4,
    "embed_dim": 96,
    "depths": [2, 2, 6, 2],
    "num_heads": [3, 6, 12, 24],
    "window_size": 7,
    "num_labels": 1000,
}
_VIT_TORCHVISION = {
    "size": 32,
    "patch_size": 8,
    "num_layers": 2,
    "num_heads": 4,
    "hidden_dim": 48,
    "mlp_dim": 112,
    "num_classes": 10,
}
_VIT_TORCHVISION_FULL = {
    "size": 224,
    "patch_size": 16,
    "num_layers": 12,
    "num_heads": 12,
    "hidden_dim": 768,
    "mlp_dim": 3072,
}
_VIT_TIMM = {
    "size": 32,
    "patch_size": 8,
    "depth": 2,
    "num_heads": 4,
    "embed_dim": 48,
    "num_classes": 10,
}
_SWIN_TORCHVISION = {
    "size": 64,
    "patch_size": [4, 4],
    "embed_dim": 24,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": [4, 4],
    "num_classes": 10,
}
_SWIN_TORCHVISION_FULL = {
    "size": 224,
    "patch_size": [4, 4],
    "embed_dim": 96,
    "depths": [2, 2, 6, 2],
    "num_heads": [3, 6, 12, 24],
    "window_size": [7, 7],
}

ENTRIES: tuple[Entry, ...] = (
    Entry("vit_eager", partial(vit, "eager"), _VIT, {"num_labels": 1000}),
    Entry(
        "vit_sdpa",
        partial(vit, "sdpa"),
        _VIT,
        {"num_labels": 1000},
        (*TRANSFORMER, "dynamo23-dynamic"),
    ),
    Entry("swin_hf_eager", partial(swin_hf, "eager"), _SWIN_HF, _SWIN_HF_FULL),
    Entry("swin_hf_sdpa", partial(swin_hf, "sdpa"), _SWIN_HF, _SWIN_HF_FULL, TORCHSCRIPT),
    Entry(
        "vit_torchvision",
        vit_torchvision,
        _VIT_TORCHVISION,
        _VIT_TORCHVISION_FULL,
    ),
    Entry("vit_timm", vit_timm, _VIT_TIMM, {"size": 224}),
    Entry(
        "swin_torchvision",
        swin_torchvision,
        _SWIN_TORCHVISION,
        _SWIN_TORCHVISION_FULL,
    ),
)
