"""The backbones that benchmarks/hub.py prunes, from small configs.

KerasHub is not a dependency of this project. It is imported from the folder of
`pip install --no-deps --target`.
"""

import dataclasses
from collections.abc import Callable

# No two sizes of these are alike, so that the axes of a weight tell what they
# hold: see `hub.zeroed`.
WIDTH, HEADS, SERVED, INNER = 24, 4, 2, 40


@dataclasses.dataclass(frozen=True)
class Network:
    """A backbone, and what its sizes tell.

    Attributes:
        build: makes it, with random weights.
        told: whether an axis of `WIDTH`, `HEADS` or `INNER` in its weights
            is the stream, heads, or a hidden layer, and nothing else.
        depth: whether it has a number of blocks.
    """

    build: Callable
    told: bool = True
    depth: bool = True


def _hub(backbone, **options):
    def build():
        import keras_hub

        return getattr(keras_hub.models, f"{backbone}Backbone")(**options)

    return build


_WORDS = {"vocabulary_size": 50, "num_layers": 2}
_TEXT = {
    **_WORDS,
    "num_heads": HEADS,
    "hidden_dim": WIDTH,
    "intermediate_dim": INNER,
}
_SHORT = {**_TEXT, "max_sequence_length": 14}
_HEADLESS = {k: v for k, v in _TEXT.items() if k != "num_heads"}
_ELECTRA = {k: v for k, v in _SHORT.items() if k != "vocabulary_size"}
_QUERIES = {
    **_WORDS,
    "num_query_heads": HEADS,
    "num_key_value_heads": SERVED,
    "hidden_dim": WIDTH,
    "intermediate_dim": INNER,
}
_SPEECH = {
    "num_mels": 8,
    "max_encoder_sequence_length": 16,
    "max_decoder_sequence_length": 14,
}
TEXT = {
    "BERT": _hub("Bert", **_SHORT),
    "RoBERTa": _hub("Roberta", **_SHORT),
    "DistilBERT": _hub("DistilBert", **_SHORT),
    "ALBERT": _hub("Albert", **_SHORT, embedding_dim=9),
    "ELECTRA": _hub("Electra", **_ELECTRA, vocab_size=50, embedding_dim=9),
    "DeBERTaV3": _hub("DebertaV3", **_SHORT, bucket_size=8),
    "ESM": _hub("ESM", **_TEXT),
    "XLNet": _hub("XLNet", **_TEXT),
    "GPT-2": _hub("GPT2", **_SHORT),
    "GPT-NeoX": _hub("GPTNeoX", **_SHORT, rotary_percentage=0.4),
    "OPT": _hub("OPT", **_SHORT),
    "BLOOM": _hub("Bloom", **_TEXT),
    "Falcon": _hub("Falcon", **_HEADLESS, num_attention_heads=HEADS),
    "Llama": _hub("Llama", **_QUERIES),
    "Mistral": _hub("Mistral", **_QUERIES),
    "Gemma": _hub("Gemma", **_QUERIES, head_dim=6),
    "Phi3": _hub("Phi3", **_QUERIES),
    "Qwen": _hub("Qwen", **_QUERIES),
    "Qwen3": _hub("Qwen3", **_QUERIES, head_dim=6),
    "T5": _hub("T5", **_TEXT),
    "BART": _hub("Bart", **_SHORT),
}

_IMAGE = {"image_shape": (32, 32, 3)}
_PATCHES = {
    **_IMAGE,
    "patch_size": 8,
    "num_layers": 2,
    "num_heads": HEADS,
    "hidden_dim": WIDTH,
}
_DINO = {**_PATCHES, "intermediate_dim": INNER}
_MIT = {
    **_IMAGE,
    "layerwise_depths": [1, 1],
    "num_layers": 2,
    "layerwise_num_heads": [1, 2],
    "layerwise_sr_ratios": [2, 1],
    "max_drop_path_rate": 0.1,
    "layerwise_patch_sizes": [7, 3],
    "layerwise_strides": [4, 2],
    "hidden_dims": [16, 32],
}
_DET = {
    "hidden_size": WIDTH,
    "num_layers": 2,
    "intermediate_dim": INNER,
    "num_heads": HEADS,
    "global_attention_layer_indices": [1],
    "patch_size": 8,
    "num_output_channels": 16,
    "window_size": 2,
}


def _segformer():
    import keras_hub

    return keras_hub.models.SegFormerBackbone(
        image_encoder=_hub("MiT", **_MIT)(), projection_filters=16
    )


def _sam():
    import keras_hub
    from keras_hub.layers import SAMMaskDecoder
    from keras_hub.layers import SAMPromptEncoder

    sizes = {"hidden_size": 16, "image_embedding_size": (4, 4)}
    return keras_hub.models.SAMBackbone(
        image_encoder=_hub("ViTDet", **{**_DET, **_IMAGE})(),
        prompt_encoder=SAMPromptEncoder(
            **sizes, input_image_size=(32, 32), mask_in_channels=4
        ),
        mask_decoder=SAMMaskDecoder(
            hidden_size=16,
            num_layers=1,
            intermediate_dim=INNER,
            num_heads=2,
            embedding_dim=16,
            num_multimask_outputs=3,
            iou_head_depth=2,
            iou_head_hidden_dim=16,
        ),
    )


TRANSFORMERS = {
    "ViT": _hub("ViT", **_PATCHES, mlp_dim=INNER),
    "DeiT": _hub("DeiT", **_DINO),
    "DINOv2": _hub("DINOV2", **_DINO, position_embedding_shape=(32, 32, 3)),
    "ViTDet": _hub("ViTDet", **_DET, **_IMAGE),
}
# Their sizes do not tell: two groups of one size, or other ones by stage.
OTHERS = {
    # In these, not all axes of the stream's size are the stream.
    "RoFormerV2": _hub("RoformerV2", **_TEXT, head_size=6),
    "Whisper": _hub("Whisper", **_TEXT, **_SPEECH),
    "FNet": _hub("FNet", **_HEADLESS, max_sequence_length=14),
    "DINOv3": _hub("DINOV3", **{**_DINO, "num_heads": 3}),
    "Swin": _hub(
        "SwinTransformer",
        **_IMAGE,
        embed_dim=16,
        depths=(2, 2),
        num_heads=(2, 4),
        window_size=4,
    ),
    "MiT": _hub("MiT", **_MIT),
    "SegFormer": _segformer,
    "SAM": _sam,
}

_RESNET = {
    **_IMAGE,
    "input_conv_filters": [16],
    "input_conv_kernel_sizes": [7],
    "stackwise_num_filters": [64, 96],
    "stackwise_num_blocks": [2, 2],
    "stackwise_num_strides": [1, 2],
}
_CSP = {
    **_IMAGE,
    "block_type": "dark_block",
    "stem_filters": 16,
    "stem_kernel_size": 3,
    "stem_strides": 1,
    "stackwise_depth": [1, 2],
    "stackwise_strides": [1, 2],
    "stackwise_num_filters": [16, 32],
}
_CSP_STAGE = {
    "stage_type": "csp",
    "block_type": "bottleneck_block",
    "bottle_ratio": [0.5],
    "expand_ratio": [2.0],
    "cross_linear": True,
}
_CS3_STAGE = {
    "stage_type": "cs3",
    "block_ratio": [0.5],
    "stem_padding": "same",
    "avg_down": True,
    "down_growth": True,
}
_EFFICIENT = {
    "input_shape": (32, 32, 3),
    "stackwise_width_coefficients": [1.0] * 3,
    "stackwise_depth_coefficients": [1.0] * 3,
    "stackwise_kernel_sizes": [3] * 3,
    "stackwise_num_repeats": [1, 2, 2],
    "stackwise_input_filters": [24, 24, 32],
    "stackwise_output_filters": [24, 32, 48],
    "stackwise_expansion_ratios": [1, 4, 4],
    "stackwise_squeeze_and_excite_ratios": [0.0, 0.0, 0.25],
    "stackwise_strides": [1, 2, 2],
    "stackwise_block_types": ["fused", "fused", "unfused"],
}
_MOBILE = {
    **_IMAGE,
    "stackwise_expansion": [[40, 56], [64, 144]],
    "stackwise_num_blocks": [2, 2],
    "stackwise_num_filters": [[16, 16], [24, 24]],
    "stackwise_kernel_size": [[3, 3], [5, 5]],
    "stackwise_num_strides": [[2, 1], [2, 1]],
    "stackwise_se_ratio": [[None, None], [0.25, 0.25]],
    "stackwise_activation": [["relu"] * 2, ["hard_swish"] * 2],
    "stackwise_padding": [[1, 1], [2, 2]],
    "output_num_filters": 48,
    "depthwise_filters": 8,
    "depthwise_stride": 1,
    "depthwise_residual": False,
    "last_layer_filter": 48,
    "squeeze_and_excite": 0.5,
}
_HG = {
    **_IMAGE,
    "depths": [1, 1],
    "embedding_size": 16,
    "hidden_sizes": [24, 32],
    "stem_channels": [3, 8, 16],
    "hidden_act": "relu",
    "use_learnable_affine_block": False,
    # input, middle, output channels, blocks, layers, kernel
    "stackwise_stage_filters": [(16, 8, 24, 1, 2, 3), (24, 12, 32, 1, 2, 3)],
    "apply_downsample": [False, True],
    "use_lightweight_conv_block": [False, True],
}
CONVOLUTIONS = {
    "ResNet": _hub("ResNet", **_RESNET, block_type="bottleneck_block"),
    "ResNetV2": _hub(
        "ResNet",
        **_RESNET,
        block_type="bottleneck_block",
        use_pre_activation=True,
    ),
    "DenseNet": _hub("DenseNet", **_IMAGE, stackwise_num_repeats=[2, 2]),
    "CSPDarkNet": _hub("CSPNet", **_CSP, stage_type="dark"),
    "CSPNet": _hub("CSPNet", **{**_CSP, **_CSP_STAGE}),
    "CS3Net": _hub("CSPNet", **{**_CSP, **_CS3_STAGE}),
    "EfficientNet": _hub("EfficientNet", **_EFFICIENT),
    "MobileNetV3": _hub("MobileNet", **_MOBILE),
    "HGNetV2": _hub("HGNetV2", **_HG),
    "VGG": _hub(
        "VGG",
        **_IMAGE,
        stackwise_num_repeats=[2, 2],
        stackwise_num_filters=[16, 32],
    ),
    "Xception": _hub(
        "Xception",
        image_shape=(64, 64, 3),
        stackwise_conv_filters=[[16, 32], [32, 48]],
        stackwise_pooling=[True, False],
    ),
}


def networks():
    """`{name: Network}`."""
    every = {**TEXT, **TRANSFORMERS}
    return {
        **{name: Network(build) for name, build in every.items()},
        **{name: Network(build, told=False) for name, build in OTHERS.items()},
        **{
            name: Network(build, told=False, depth=False)
            for name, build in CONVOLUTIONS.items()
        },
    }
