"""The networks that benchmarks/coverage.py prunes, by suite and name."""

import functools
import inspect

import keras

from tests import helpers
from tests.surgeon import networks_beyond


def applications():
    """`{name: builder}` of all models of keras.applications."""
    found = {}
    for name, value in vars(keras.applications).items():
        if inspect.isfunction(value) and name[0].isupper():
            found[name] = functools.partial(_application, value)
    return dict(sorted(found.items()))


def _application(function):
    """A network with the smallest inputs that it takes, and 10 outputs."""
    options = {"weights": None, "classes": 10, "classifier_activation": None}
    known = inspect.signature(function).parameters
    options = {k: v for k, v in options.items() if k in known}
    for size in (64, 75, 96, 128, 224, 331):
        try:
            return function(input_shape=(size, size, 3), **options)
        except ValueError as error:
            refused = error
    raise refused


def hub():
    """Backbones of KerasHub from a config, under their options.

    KerasHub is no dependency of this project: install it to run these.
    """
    import keras_hub

    image = {"image_shape": (64, 64, 3)}
    rows = {
        "ResNetBackbone": [
            {**_RESNET, **image, "block_type": "bottleneck_block"},
            {**_RESNET, **image, "use_pre_activation": True},
        ],
        "EfficientNetBackbone": [{**_EFFICIENT, "input_shape": (64, 64, 3)}],
        "DenseNetBackbone": [{"stackwise_num_repeats": [3, 4, 3, 2], **image}],
        "MobileNetBackbone": [{**_MOBILE, **image}],
        "CSPNetBackbone": [
            {**_CSP, **image, **options} for options in _CSP_STAGES
        ],
        "VGGBackbone": [
            {
                "stackwise_num_repeats": [2, 2, 3],
                "stackwise_num_filters": [32, 64, 128],
                **image,
            }
        ],
        "XceptionBackbone": [
            {
                "stackwise_conv_filters": [[32, 64], [64, 128], [128, 128]],
                "stackwise_pooling": [True, True, False],
                **image,
            }
        ],
        "ViTBackbone": [{**_VIT, **image}],
    }
    found = {}
    for name, every in rows.items():
        for options in every:
            kind = options.get("stage_type", options.get("block_type"))
            key = f"{name} ({kind})" if len(every) > 1 else name
            backbone = getattr(keras_hub.models, name)
            found[key] = functools.partial(backbone, **options)
    return found


_RESNET = {
    "input_conv_filters": [64],
    "input_conv_kernel_sizes": [7],
    "stackwise_num_filters": [64, 96, 128],
    "stackwise_num_blocks": [2, 2, 2],
    "stackwise_num_strides": [1, 2, 2],
    "block_type": "basic_block",
}
_CSP = {
    "block_type": "dark_block",
    "stem_filters": 32,
    "stem_kernel_size": 3,
    "stem_strides": 1,
    "stackwise_depth": [1, 2, 4],
    "stackwise_strides": [1, 2, 2],
    "stackwise_num_filters": [32, 64, 128],
}
_CSP_STAGES = [
    {"stage_type": "dark"},
    {
        "stage_type": "csp",
        "block_type": "bottleneck_block",
        "bottle_ratio": [0.5],
        "expand_ratio": [2.0],
        "cross_linear": True,
    },
    {
        "stage_type": "cs3",
        "block_ratio": [0.5],
        "stem_padding": "same",
        "avg_down": True,
        "down_growth": True,
    },
]
_VIT = {
    "patch_size": 16,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 32,
    "mlp_dim": 64,
}
_EFFICIENT = {
    "stackwise_width_coefficients": [1.0] * 6,
    "stackwise_depth_coefficients": [1.0] * 6,
    "stackwise_kernel_sizes": [3] * 6,
    "stackwise_num_repeats": [1, 2, 2, 2, 2, 2],
    "stackwise_input_filters": [24, 24, 32, 48, 64, 80],
    "stackwise_output_filters": [24, 32, 48, 64, 80, 96],
    "stackwise_expansion_ratios": [1, 4, 4, 4, 6, 6],
    "stackwise_squeeze_and_excite_ratios": [0.0, 0.0, 0, 0.25, 0.25, 0.25],
    "stackwise_strides": [1, 2, 2, 2, 1, 2],
    "stackwise_block_types": ["fused"] * 3 + ["unfused"] * 3,
}
_MOBILE = {
    "stackwise_expansion": [[40, 56], [64, 144], [72, 72]],
    "stackwise_num_blocks": [2, 2, 2],
    "stackwise_num_filters": [[16, 16], [24, 24], [24, 24]],
    "stackwise_kernel_size": [[3, 3], [5, 5], [5, 5]],
    "stackwise_num_strides": [[2, 1], [2, 1], [1, 1]],
    "stackwise_se_ratio": [[None, None], [0.25, 0.25], [0.3, 0.3]],
    "stackwise_activation": [["relu"] * 2, ["hard_swish"] * 2, ["relu"] * 2],
    "stackwise_padding": [[1, 1], [2, 2], [2, 2]],
    "output_num_filters": 96,
    "depthwise_filters": 8,
    "depthwise_stride": 1,
    "depthwise_residual": False,
    "last_layer_filter": 96,
    "squeeze_and_excite": 0.5,
}


def beyond():
    """`{name: builder}` of the small gated networks of the tests."""
    return {
        build.__name__: functools.partial(_half_closed, build)
        for build in networks_beyond.TABLE
    }


def _half_closed(build):
    return networks_beyond.close_half(helpers.randomize(build()))


SUITES = {"applications": applications, "hub": hub, "beyond": beyond}
