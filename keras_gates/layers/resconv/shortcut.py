"""The shortcuts that a convolution can have and still fuse into one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keras_gates.layers.resconv.res_conv import ResConv
    from keras_gates.layers.window import Window

KINDS = ("identity", "conv", "pool", "pool_conv")


def resolve(layer: ResConv, window: Window, channels: int | None = None) -> str:
    """The kind of shortcut of a `ResConv`.

    Args:
        layer: the layer.
        window: its `Window`.
        channels: those of the input; None where they are not known yet.

    Raises:
        ValueError: The two would not fuse into one convolution.
    """
    kind = layer.shortcut
    if kind not in ("auto", *KINDS):
        layer.refuse(
            f"shortcut={kind!r}", f"Expected: 'auto', or one of {KINDS}."
        )
    if kind == "auto":
        kind = _choose(window, channels in (None, layer.filters))
    remedy = _obstacle(kind, window)
    if remedy is None and channels is not None:
        remedy = _mismatch(kind, window, channels, layer.filters)
    if remedy:
        layer.refuse(f"shortcut={layer.shortcut!r}", remedy)
    return kind


def depends_on_size(kind: str, window: Window) -> bool:
    """Whether the shortcut's tap depends on the size of the input."""
    wide = any(
        taps > 1 < stride
        for taps, stride in zip(window.kernel, window.strides, strict=True)
    )
    return kind == "conv" and wide


def _choose(window: Window, same_channels: bool) -> str:
    """The shortcut whose output has the shape of the convolution's."""
    if window.keeps_size:
        return "identity" if same_channels else "conv"
    return "pool" if same_channels else "pool_conv"


def _obstacle(kind: str, window: Window) -> str | None:
    """Why such a shortcut doesn't fit the window, and the remedy.

    Returns None if it does, provided that the channels fit.
    """
    if kind.startswith("pool"):
        if max(window.dilation) > 1:
            return (
                "An average over neighbors is no kernel with gaps. Use "
                "dilation_rate=1, or padding='same', which needs no pooling."
            )
        return None
    if kind == "identity" and not window.keeps_size:
        return (
            "The output has another size than the input. Use shortcut='pool'."
        )
    if window.padding == "valid" and max(window.kernel) > 1:
        return (
            "padding='valid' cuts off a border that the shortcut would keep. "
            "Use padding='same', or shortcut='pool_conv'."
        )
    if not window.has_taps:
        return (
            "No tap of the kernel reads the pixel that the shortcut reads: "
            "they are even in number, with gaps. Use an odd kernel_size, or "
            "dilation_rate=1."
        )
    return None


def _mismatch(
    kind: str, window: Window, channels: int, filters: int
) -> str | None:
    """Why the shortcut doesn't fit the input, and the remedy, or None."""
    if not kind.endswith("conv") and channels != filters:
        wanted = "conv" if kind == "identity" else "pool_conv"
        return (
            f"The input has {channels} channels, and the output {filters}. "
            f"Use shortcut='{wanted}'."
        )
    if depends_on_size(kind, window) and None in window.pads:
        return (
            "The size of the input, which is unknown, decides which tap of "
            "the kernel reads the pixel that the shortcut reads. Give the "
            "size in keras.Input, or use shortcut='pool_conv'."
        )
    return None
