"""Transformers for benchmarks/surgery.py, and what Torch-Pruning removes.

To find what a torch twin keeps, a copy is cut whose parameters hold their own
positions: Torch-Pruning removes rows and columns and changes no value, so the
remaining positions show what was removed.
"""

import copy

import keras
import torch
from keras import layers


def vit_b16(classes=1000, size=224, blocks=12, width=768, heads=12):
    """ViT-B/16 of Keras' layers (Dosovitskiy et al., 2021)."""
    inputs = keras.Input((size, size, 3))
    x = layers.Conv2D(width, 16, 16, name="patches")(inputs)
    x = layers.Reshape((-1, width))(x)
    x = _Token(name="token")(x)
    for i in range(blocks):
        y = layers.LayerNormalization(epsilon=1e-6, name=f"norm_{i}a")(x)
        attention = layers.MultiHeadAttention(
            heads, width // heads, name=f"attention_{i}"
        )
        x = layers.Add()([x, attention(y, y)])
        y = layers.LayerNormalization(epsilon=1e-6, name=f"norm_{i}b")(x)
        y = layers.Dense(4 * width, activation="gelu", name=f"hidden_{i}")(y)
        x = layers.Add()([x, layers.Dense(width, name=f"out_{i}")(y)])
    x = layers.LayerNormalization(epsilon=1e-6, name="norm")(x)
    return keras.Model(inputs, layers.Dense(classes, name="head")(x[:, 0]))


class _Token(layers.Layer):
    """A class token before the patches, and the positions of all."""

    def build(self, shape):
        length, width = shape[1] + 1, shape[2]
        normal = keras.initializers.RandomNormal(stddev=0.02)
        self.token = self.add_weight(
            shape=(1, 1, width), initializer=normal, name="token"
        )
        self.positions = self.add_weight(
            shape=(1, length, width), initializer=normal, name="positions"
        )

    def call(self, x):
        token = self.token + keras.ops.zeros_like(x[:, :1])
        return keras.ops.concatenate([token, x], axis=1) + self.positions


def heads_of(model, timm):
    """`{qkv layer: number of heads}` of a ViT of timm."""
    kind = timm.layers.attention.Attention
    found = [m for m in model.modules() if isinstance(m, kind)]
    for attention in found:
        attention.fused_attn = False  # which can't be followed
    return {attention.qkv: attention.num_heads for attention in found}


def tell_heads(model, pruner, timm):
    """Set what a ViT of timm knows of its own sizes, which no cut changes."""
    kind = timm.layers.attention.Attention
    for attention in model.modules():
        if isinstance(attention, kind):
            heads = pruner.num_heads[attention.qkv]
            attention.num_heads = heads
            attention.attn_dim = attention.qkv.out_features // 3
            attention.head_dim = attention.attn_dim // heads


def draw(model):
    """Draw the scales and shifts of normalizations, which begin all alike."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            middle = float(parameter.detach().mean() > 0.5)
            parameter.data.normal_(middle, 0.2)


class Recorded:
    """An importance that is told once more, in the same order."""

    def __init__(self, importance, values=None):
        self.importance = importance
        self.values = [] if values is None else values
        self.replayed = None if values is None else iter(values)

    def __call__(self, group, **options):
        if self.replayed is not None:
            return next(self.replayed)
        value = self.importance(group, **options)
        self.values.append(value)
        return value


def places(model):
    """A copy of a model whose parameters hold their places, from 0 on."""
    own = copy.deepcopy(model).double()
    for parameter in own.parameters():
        count = torch.arange(parameter.numel(), dtype=torch.float64)
        parameter.data = count.reshape(parameter.shape)
    return own


def masked(model, kept):
    """A copy of a model with zeros at the places that are not kept."""
    own = copy.deepcopy(model)
    left = dict(kept.named_parameters())
    for name, parameter in own.named_parameters():
        mask = torch.zeros(parameter.numel())
        mask[left[name].detach().flatten().long()] = 1
        parameter.data *= mask.reshape(parameter.shape)
    return own


def difference(expected, got):
    """The largest difference of two outputs, by the largest output."""
    return float((expected - got).abs().max() / expected.abs().max())
