"""The networks that benchmarks/zoo.py prunes, by package and name.

This project needs none of these packages. They are imported from the folder of
`pip install --no-deps --target`.
"""

import functools
import importlib
import os
import sys

import keras

# Where a network has sizes to choose, they are those of a toy.
_IMAGE = {"input_shape": (64, 64, 3)}


def _kimm(name, size=64):
    def build():
        import kimm

        model = getattr(kimm.models, name)
        return model(input_shape=(size, size, 3), weights=None, classes=10)

    return build


KIMM = {
    name: _kimm(name, *size)
    for name, *size in (
        ("ConvMixer736D32",),
        ("ConvNeXtAtto",),
        ("DenseNet121",),
        ("EfficientNetB0",),
        ("EfficientNetLiteB0",),
        ("EfficientNetV2B0",),
        ("GhostNetW050",),
        ("GhostNetV2W100",),
        ("GhostNetV3W050",),
        ("HGNetTiny",),
        ("HGNetV2B0",),
        ("InceptionNeXtTiny",),
        ("InceptionV3", 96),
        ("LCNet050",),
        ("MobileNetV2W050",),
        ("MobileNetV3W050Small",),
        ("MobileOneS0",),
        ("MobileViTXXS",),
        ("MobileViTV2W050",),
        ("RegNetX002",),
        ("RegNetY002",),
        ("RepVGGA0",),
        ("ResNet18",),
        ("TinyNetE",),
        ("VisionTransformerTiny16",),
        ("VisionTransformerTiny32",),
        ("Xception", 96),
    )
}


def _k3im(module, name, *args, **options):
    def build():
        found = importlib.import_module(f"k3im.{module}")
        return getattr(found, name)(*args, **options)

    return build


_TOKENS = {
    "num_classes": 10,
    "dim": 32,
    "depth": 2,
    "heads": 2,
    "mlp_dim": 128,
}
_VIT = {**_TOKENS, "image_size": 32, "patch_size": 8}
_HEADED = {**_VIT, "dim_head": 16}
_LINE = {**_TOKENS, "seq_len": 32, "patch_size": 8, "dim_head": 16}
_FILM = {
    "image_size": 16,
    "image_patch_size": 8,
    "frames": 8,
    "frame_patch_size": 4,
    "num_classes": 10,
    "dim": 32,
}
_MIXED = {
    "image_size": 32,
    "patch_size": 8,
    "embedding_dim": 32,
    "num_blocks": 2,
    "dropout_rate": 0.1,
    "num_classes": 10,
}
_COMPACT = {
    "num_heads": 2,
    "projection_dim": 32,
    "kernel_size": 3,
    "stride": 1,
    "padding": 1,
    "transformer_units": [64, 32],
    "stochastic_depth_rate": 0.1,
    "transformer_layers": 2,
    "num_classes": 10,
    "positional_emb": True,
}
K3IM = {
    "ViT": _k3im("vit", "ViT", **_HEADED),
    "ViT (patch dropout)": _k3im(
        "vit_with_patch_dropout", "SimpleViTPD", **_HEADED
    ),
    "SimpleViT": _k3im("simple_vit", "SimpleViT", **_HEADED),
    "SimpleViT (registers)": _k3im(
        "simple_vit_with_register_tokens", "SimpleViT_RT", **_HEADED
    ),
    "SimpleViT (FFT)": _k3im(
        "simple_vit_with_fft", "SimpleViTFFT", **_HEADED, freq_patch_size=8
    ),
    "SimpleViT 1D": _k3im("simple_vit_1d", "SimpleViT1DModel", **_LINE),
    "ViT 1D": _k3im("vit_1d", "ViT1DModel", **_LINE),
    "DeepViT": _k3im("deepvit", "DeepViT", **_HEADED),
    "CaiT": _k3im("cait", "CaiTModel", **_HEADED, cls_depth=1),
    "CCT": _k3im("cct", "CCT", input_shape=(32, 32, 3), **_COMPACT),
    "CrossViT": _k3im(
        "cross_vit",
        "CrossViT",
        image_size=48,
        num_classes=10,
        sm_dim=16,
        lg_dim=32,
        channels=3,
        sm_enc_heads=2,
        sm_enc_mlp_dim=32,
        sm_enc_dim_head=8,
        lg_enc_depth=1,
        lg_enc_heads=2,
        lg_enc_mlp_dim=64,
        lg_enc_dim_head=16,
        cross_attn_heads=2,
        cross_attn_dim_head=8,
        depth=1,
    ),
    "EANet": _k3im(
        "eanet",
        "EANet",
        input_shape=(32, 32, 3),
        patch_size=8,
        embedding_dim=32,
        num_transformer_blocks=2,
        mlp_dim=32,
        num_heads=2,
        dim_coefficient=4,
        attention_dropout=0.1,
        projection_dropout=0.1,
        num_classes=10,
    ),
    "ConvMixer": _k3im("convmixer", "ConvMixer", filters=32, depth=2),
    "FNet": _k3im("fnet", "FNetModel", **_MIXED),
    "gMLP": _k3im("gmlp", "gMLPModel", **_MIXED),
    "MLP-Mixer": _k3im(
        "mlp_mixer",
        "MlpMixer",
        num_classes=10,
        img_size=32,
        patch_size=8,
        num_blocks=2,
        embed_dim=32,
    ),
    "FocalNet": _k3im(
        "focalnet",
        "FocalNetModel",
        img_size=32,
        num_classes=10,
        embed_dim=16,
        depths=[1, 1],
        focal_levels=[2, 2],
        focal_windows=[3, 2],
    ),
    "Swin": _k3im(
        "swint",
        "SwinTModel",
        img_size=32,
        patch_size=4,
        embed_dim=16,
        num_heads=2,
        window_size=4,
        num_mlp=32,
        qkv_bias=True,
        dropout_rate=0.1,
        shift_size=2,
        num_classes=10,
    ),
    "TokenLearner": _k3im(
        "token_learner", "ViTokenLearner", **_HEADED, token_learner_units=4
    ),
    "ViViT": _k3im(
        "vivit",
        "ViViT",
        **_FILM,
        spatial_depth=1,
        temporal_depth=1,
        heads=2,
        mlp_dim=64,
        dim_head=16,
    ),
    "VideoMixer": _k3im(
        "video_mixer",
        "VideoMixerModel",
        **_FILM,
        spatial_depth=1,
        temporal_depth=1,
        mlp_dim=64,
    ),
}


def _medicai(name, shape=(64, 64, 3), **options):
    def build():
        import medicai.models

        found = getattr(medicai.models, name)
        return found(input_shape=shape, num_classes=10, **options)

    return build


_VOLUME = (32, 32, 32, 1)
MEDICAI = {
    "ConvNeXtV2Atto": _medicai("ConvNeXtV2Atto"),
    "DenseNet121": _medicai("DenseNet121"),
    "DenseNet121 3D": _medicai("DenseNet121", _VOLUME),
    "EfficientNetB0": _medicai("EfficientNetB0"),
    "EfficientNetV2B0": _medicai("EfficientNetV2B0"),
    "ResNet18": _medicai("ResNet18"),
    "ResNet18 3D": _medicai("ResNet18", _VOLUME),
    "ResNet50vd": _medicai("ResNet50vd"),
    "ResNeXt50": _medicai("ResNeXt50"),
    "SEResNet18": _medicai("SEResNet18"),
    "Xception": _medicai("Xception", (96, 96, 3)),
    "MixViTB0": _medicai("MixViTB0"),
    "UNet": _medicai("UNet", encoder_name="resnet18"),
    "AttentionUNet": _medicai("AttentionUNet", encoder_name="resnet18"),
    "UNet++": _medicai("UNetPlusPlus", encoder_name="resnet18"),
    "UPerNet": _medicai("UPerNet", encoder_name="resnet18"),
    "DeepLabV3+": _medicai("DeepLabV3Plus", encoder_name="resnet18"),
    "SegFormer": _medicai("SegFormer", encoder_name="mit_b0"),
    "TransUNet": _medicai(
        "TransUNet",
        encoder_name="resnet18",
        num_vit_layers=1,
        num_heads=2,
        num_queries=8,
        embed_dim=32,
        mlp_dim=64,
    ),
    "SwinTiny": _medicai("SwinTiny"),
    "SwinUNETR": _medicai("SwinUNETR", _VOLUME, feature_size=12),
    "UNETR++": _medicai("UNETRPlusPlus", (32, 64, 64, 1)),
}


def _kecam(module, name, size=64, **options):
    def build():
        os.environ["KECAM_BACKEND"] = "keras_core"
        _alias("keras_core")
        found = importlib.import_module(f"keras_cv_attention_models.{module}")
        return getattr(found, name)(
            input_shape=(size, size, 3),
            pretrained=None,
            num_classes=10,
            **options,
        )

    return build


def _alias(name):
    """Let `import keras_core` give Keras 3, which it became."""
    for module in list(sys.modules):
        if module == "keras" or module.startswith("keras."):
            sys.modules[name + module[len("keras") :]] = sys.modules[module]


KECAM = {
    name: _kecam(*row)
    for name, *row in (
        ("BotNet26T", "botnet", "BotNet26T", 128),
        ("CAFormerS18", "caformer", "CAFormerS18"),
        ("CMTTiny", "cmt", "CMTTiny", 160),
        ("CoaTLiteTiny", "coat", "CoaTLiteTiny"),
        ("CoAtNet0", "coatnet", "CoAtNet0"),
        ("CotNet50", "cotnet", "CotNet50"),
        ("DaViT_T", "davit", "DaViT_T"),
        ("EdgeNeXt_XX_Small", "edgenext", "EdgeNeXt_XX_Small"),
        ("EfficientFormerL1", "efficientformer", "EfficientFormerL1"),
        ("EfficientViT_M0", "efficientvit", "EfficientViT_M0"),
        ("FasterNetT0", "fasternet", "FasterNetT0"),
        ("GCViT_XXTiny", "gcvit", "GCViT_XXTiny", 224),
        ("HorNetTiny", "hornet", "HorNetTiny"),
        ("LeViT128S", "levit", "LeViT128S"),
        ("GMLPTiny16", "mlp_family", "GMLPTiny16"),
        ("ResMLP12", "mlp_family", "ResMLP12"),
        ("WaveMLP_T", "mlp_family", "WaveMLP_T"),
        ("MobileViT_XXS", "mobilevit", "MobileViT_XXS"),
        ("MogaNetXtiny", "moganet", "MogaNetXtiny"),
        ("NFNetF0", "nfnets", "NFNetF0"),
        ("PVT_V2B0", "pvt", "PVT_V2B0"),
        ("RepViT_M09", "repvit", "RepViT_M09"),
        ("ResNest50", "resnest", "ResNest50"),
        ("SwinTransformerV2Tiny_ns", "swin_transformer_v2")
        + ("SwinTransformerV2Tiny_ns",),
        ("TinyViT_5M", "tinyvit", "TinyViT_5M", 224),
        ("UniformerSmall32", "uniformer", "UniformerSmall32"),
        ("VOLO_d1", "volo", "VOLO_d1"),
    )
}


def _tcn(layer=None, **options):
    def build():
        import tcn

        x = keras.Input((24, 6))
        y = tcn.TCN(nb_filters=16, dilations=(1, 2, 4), **options)(x)
        if options.get("return_sequences"):
            y = keras.layers.Dense(8, activation="relu")(y)
        return keras.Model(x, keras.layers.Dense(3)(y))

    return build


TCN = {
    "TCN": _tcn(),
    "TCN (batch norm)": _tcn(use_batch_norm=True),
    "TCN (layer norm)": _tcn(use_layer_norm=True),
    "TCN (sequences)": _tcn(return_sequences=True, use_skip_connections=False),
}


def _segmodels(name, backbone, size=64):
    def build():
        os.environ["SM_FRAMEWORK"] = "keras"
        import segmodels_keras

        return getattr(segmodels_keras, name)(
            backbone, (size, size, 3), classes=3, encoder_weights=None
        )

    return build


SEGMODELS = {
    "Unet (vgg16)": _segmodels("Unet", "vgg16"),
    "Unet (mobilenetv2)": _segmodels("Unet", "mobilenetv2"),
    "Unet (resnet18)": _segmodels("Unet", "resnet18"),
    "FPN (resnet18)": _segmodels("FPN", "resnet18"),
    "Linknet (resnet34)": _segmodels("Linknet", "resnet34"),
    "Linknet (efficientnetb0)": _segmodels("Linknet", "efficientnetb0"),
    "PSPNet (resnet18)": _segmodels("PSPNet", "resnet18", 96),
}


@functools.cache
def networks():
    """`{"package/name": builder}` of all networks."""
    suites = {
        "kimm": KIMM,
        "k3im": K3IM,
        "medicai": MEDICAI,
        "kecam": KECAM,
        "keras-tcn": TCN,
        "segmodels-keras": SEGMODELS,
    }
    return {
        f"{package}/{name}": build
        for package, found in suites.items()
        for name, build in found.items()
    }
