"""What docs/coverage.md says besides its figures."""

CASES = {
    "after": "Half of the channels closed after the normalizations",
    "before": "Half of the channels closed before them",
    "branches": "40 % of the branches closed",
    "identity": "Nothing closed",
}
# Families whose exact networks keep more than `exact=False` would, and why.
SURPLUS = [
    (
        "ConvNeXt",
        "`exact=False` cuts channels that a `LayerNormalization` reads "
        "together with the others, and with them the residual stream. When "
        "these figures were taken, nothing exact did; now a normalization is "
        "written out where that saves more than it costs, and ConvNeXtTiny "
        "keeps 25 % of its parameters with half of each group closed",
    ),
    (
        "Xception, NASNet",
        'A "same" `SeparableConv2D` treats each channel alone before it '
        "mixes them, so that the constants in front of it, which its zero "
        "border makes vary from place to place, can't merge into one channel",
    ),
]
INTRO = """# Coverage

{intro}

The networks are those of `keras.applications`, with random weights, 10 outputs
and the smallest inputs they take; the statistics of the normalisations are
those of real activations, disturbed, so that outputs vary with the inputs. Each
is pruned and compared with its own gated original, whose closed factors are
exactly 0:

- *parameters*, *MACs*: after by before, multiply-adds of the kernels;
- *difference*: the largest, by the largest output; the worst of one batch;
- *probe*: what a nudge of 1e-7 on the inputs makes of the outputs of the
  original, the worst of the backends; a network that magnifies rounding shows
  it here. Outputs count as *equal* up to {rounding:g}, or {factor} times the
  probe, if the parameters left are also as many as the plan said. Where the
  probe is above {tells:g}, unless the outputs are the same to the last bit, or
  where they vary by less than that from input to input, it is *can't tell*;
- *s*: seconds of `prune`, one cold call each on a machine busy with other
  work: no benchmark. For those see [What it costs](performance.md).

`KERAS_BACKEND=... python benchmarks/coverage.py` makes the figures, and
`python benchmarks/coverage_report.py` this page.

"""
NOTES = {
    "after": ["A closed channel is zero after its gate.", ""],
    "before": [
        "A closed channel is a constant other than zero after the "
        "normalization. *`exact=False`*: the parameters that pruning with "
        "constants absorbed across zero borders would leave; *more "
        "channels*: how many the layer that differs most keeps for being "
        "exact.",
        "",
    ],
    "branches": [
        "The operand of an addition that comes the longer way; in networks "
        "that add nothing (DenseNet, InceptionV3) the last operand of each "
        "concatenation. MobileNet and VGG have neither.",
        "",
    ],
    "identity": ["", ""],
}
MORE = (
    "The others keep at most {few} more in any layer: one a tensor, that all "
    "constants before a zero border have merged into, or none."
)
BARRIERS = "Layers that are kept whole, and the reason that the plan gives."
BEYOND = (
    "Small ones with gates of their own, half of them closed "
    "(`tests/surgeon/networks_beyond.py`; the suite also checks the width of "
    "each of their layers)."
)
HUB = """Backbones from small configs, with random weights. Half of each group
goes, by the norms of its kernels; *width* has a `Dense` layer behind each
output, for the stream of a bare backbone is an output. *Depth* closes every
other block. *Left* are the shares of the parameters. *Class* tells what the
backbone itself becomes: without its width, and with fewer blocks.

Each is compared by `verify`, which runs the backbone itself with the closed
channels at 0, and, where the sizes of a backbone tell heads from hidden layers
and stream, by the backbone with zeros in its weights: a second truth, which
nothing of ours has a part in but the list of what is closed. For depth, and for
gates in networks of convolutions, that is what the gated backbone itself
predicts. The figures are those of the first backend, the differences those of
the worst. *Equal* is up to {rounding:g}, or {factor} times the *probe*: what a
nudge of 1e-7 on all weights does.

    KERAS_BACKEND=torch python benchmarks/hub.py --packages DIR
    python benchmarks/coverage_report.py"""

ZOO = """Networks of packages that pip installs without their weights, with
random weights and, where there is a choice, the sizes of a toy. They hold
layers of their own, which have no rule and are seen through. Each is pruned
twice in a process of its own, with 60 seconds of a core for each:

- *scores*: half of each group by the norms of its kernels (`"l2"`), compared by
  `verify`, which runs the network itself with the closed channels at 0;
- *gates*: half of the factors of each gate that `insert_gates` puts in are 0,
  compared by `verify` and by what the gated network predicts.

The figures are the parameters that are left. *Equal* is up to {rounding:g}, or
{factor} times what a nudge of 1e-7 on the inputs does. `python
benchmarks/zoo.py --packages DIR` makes them."""
