"""The convolutional entries of the zoo: narrow configurations, and the published ones."""

from __future__ import annotations

from functools import partial

from bench.zoo import convolution as models
from bench.zoo.network import CONVOLUTIONAL, Entry

_RESNET = {"size": 64, "divide": 8, "num_classes": 10, "layers": [2, 2, 1, 1]}
_RESNEXT = {**_RESNET, "groups": 4, "width_per_group": 16}
_DENSENET = {
    "size": 64,
    "growth_rate": 8,
    "block_config": (3, 3, 3, 2),
    "num_init_features": 16,
    "num_classes": 10,
}
_RESNEXT = {**_RESNET, "groups": 4, "width_per_group": 16}
_DENSENET = {
    "size": 64,
    "growth_rate": 8,
    "block_config": (3, 3, 3, 2),
    "num_init_features": 16,
    "num_classes": 10,
}
_MOBILENET_V3 = {
    "size": 64,
    "last": 96,
    "num_classes": 10,
    "rows": (
        (16, 3, 16, 16, True, "RE", 2, 1),
        (16, 3, 40, 24, False, "RE", 2, 1),
        (24, 3, 48, 24, False, "RE", 1, 1),
        (24, 5, 56, 32, True, "HS", 2, 1),
        (32, 5, 72, 32, True, "HS", 1, 1),
    ),
}
_MOBILENET_V3_FULL = {  # mobilenet_v3_large
    "size": 224,
    "last": 1280,
    "rows": (
        (16, 3, 16, 16, False, "RE", 1, 1),
        (16, 3, 64, 24, False, "RE", 2, 1),
        (24, 3, 72, 24, False, "RE", 1, 1),
        (24, 5, 72, 40, True, "RE", 2, 1),
        (40, 5, 120, 40, True, "RE", 1, 1),
        (40, 5, 120, 40, True, "RE", 1, 1),
        (40, 3, 240, 80, False, "HS", 2, 1),
        (80, 3, 200, 80, False, "HS", 1, 1),
        (80, 3, 184, 80, False, "HS", 1, 1),
        (80, 3, 184, 80, False, "HS", 1, 1),
        (80, 3, 480, 112, True, "HS", 1, 1),
        (112, 3, 672, 112, True, "HS", 1, 1),
        (112, 5, 672, 160, True, "HS", 2, 1),
        (160, 5, 960, 160, True, "HS", 1, 1),
        (160, 5, 960, 160, True, "HS", 1, 1),
    ),
}
_EFFICIENTNET = {
    "size": 64,
    "last": 96,
    "num_classes": 10,
    "rows": (
        (1, 3, 1, 16, 16, 1),
        (4, 3, 2, 16, 24, 2),
        (4, 5, 2, 24, 32, 2),
        (4, 3, 2, 32, 48, 1),
    ),
}
_EFFICIENTNET_FULL = {  # efficientnet_b0
    "size": 224,
    "last": 1280,
    "rows": (
        (1, 3, 1, 32, 16, 1),
        (6, 3, 2, 16, 24, 2),
        (6, 5, 2, 24, 40, 2),
        (6, 3, 2, 40, 80, 3),
        (6, 5, 1, 80, 112, 3),
        (6, 5, 2, 112, 192, 4),
        (6, 3, 1, 192, 320, 1),
    ),
}
_REGNET = {
    "size": 64,
    "stem": 16,
    "num_classes": 10,
    "depth": 6,
    "w_0": 16,
    "w_a": 12.0,
    "w_m": 2.0,
    "group_width": 8,
}
_REGNET_X_FULL = {  # regnet_x_400mf
    "size": 224,
    "stem": 32,
    "num_classes": 1000,
    "depth": 22,
    "w_0": 24,
    "w_a": 24.48,
    "w_m": 2.54,
    "group_width": 16,
}
_REGNET_Y_FULL = {  # regnet_y_400mf
    "size": 224,
    "stem": 32,
    "num_classes": 1000,
    "depth": 16,
    "w_0": 48,
    "w_a": 27.89,
    "w_m": 2.09,
    "group_width": 8,
    "se_ratio": 0.25,
}
_CONVNEXT = {
    "size": 64,
    "rows": ((24, 32, 2), (32, 48, 2), (48, None, 1)),
    "num_classes": 10,
    "layer_scale": 1.0,
}
_CONVNEXT_FULL = {
    "size": 224,
    "rows": ((96, 192, 3), (192, 384, 3), (384, 768, 9), (768, None, 3)),
}
_SHUFFLENET_V2 = {
    "size": 64,
    "stages_repeats": [3, 2, 2],
    "stages_out_channels": [24, 32, 48, 64, 96],
    "num_classes": 10,
}
_SHUFFLENET_V2_FULL = {
    "size": 224,
    "stages_repeats": [4, 8, 4],
    "stages_out_channels": [24, 116, 232, 464, 1024],
}
_SHUFFLENET_V1 = {
    "size": 64,
    "groups": 4,
    "repeats": (3, 2),
    "widths": (64, 96),
    "num_classes": 10,
}
_SHUFFLENET_V1_FULL = {
    "size": 224,
    "groups": 4,
    "repeats": (4, 8, 4),
    "widths": (272, 544, 1088),
    "num_classes": 1000,
}

ENTRIES: tuple[Entry, ...] = (
    Entry("convnext", models.convnext, _CONVNEXT, _CONVNEXT_FULL),
    Entry(
        "resnet18",
        partial(models.resnet, unit="basic"),
        _RESNET,
        {"size": 224, "divide": 1, "layers": [2, 2, 2, 2]},
        CONVOLUTIONAL,
    ),
    Entry(
        "resnet50",
        partial(models.resnet, unit="bottleneck"),
        _RESNET,
        {"size": 224, "divide": 1, "layers": [3, 4, 6, 3]},
        CONVOLUTIONAL,
    ),
    Entry(
        "resnext50",
        partial(models.resnet, unit="bottleneck"),
        _RESNEXT,
        {"size": 224, "divide": 1, "layers": [3, 4, 6, 3], "groups": 32, "width_per_group": 4},
        CONVOLUTIONAL,
    ),
    Entry(
        "densenet121",
        models.densenet,
        _DENSENET,
        {"size": 224},
        CONVOLUTIONAL,
    ),
    Entry(
        "googlenet",
        models.googlenet,
        {"size": 64, "divide": 8, "num_classes": 10},
        {"size": 224, "divide": 1, "num_classes": 1000},
        CONVOLUTIONAL,
    ),
    Entry(
        "mobilenet_v2",
        models.mobilenet_v2,
        {
            "size": 64,
            "num_classes": 10,
            "width_mult": 0.5,
            "inverted_residual_setting": [[1, 16, 1, 1], [4, 24, 2, 2], [4, 48, 2, 2]],
        },
        {"size": 224},
        CONVOLUTIONAL,
    ),
    Entry("mobilenet_v3", models.mobilenet_v3, _MOBILENET_V3, _MOBILENET_V3_FULL, CONVOLUTIONAL),
    Entry("efficientnet", models.efficientnet, _EFFICIENTNET, _EFFICIENTNET_FULL, CONVOLUTIONAL),
    Entry("regnet_x", models.regnet, _REGNET, _REGNET_X_FULL, CONVOLUTIONAL),
    Entry("regnet_y", models.regnet, {**_REGNET, "se_ratio": 0.25}, _REGNET_Y_FULL, CONVOLUTIONAL),
    Entry(
        "shufflenet_v2", models.shufflenet_v2, _SHUFFLENET_V2, _SHUFFLENET_V2_FULL, CONVOLUTIONAL
    ),
    Entry(
        "shufflenet_v1", models.shufflenet_v1, _SHUFFLENET_V1, _SHUFFLENET_V1_FULL, CONVOLUTIONAL
    ),
)
