"""What docs/coverage.md and docs/coverage-log.md say besides their figures."""

CASES = {
    "after": "Half of the channels closed after the normalizations",
    "before": "Half of the channels closed before the normalizations",
    "branches": "40 % of the branches closed",
    "identity": "Nothing closed",
}
# Families whose exact networks keep more than `exact=False` would, and why.
SURPLUS = [
    (
        "ConvNeXt",
        "`exact=False` cuts channels that a `LayerNormalization` reads "
        "together with the others, and with them the residual stream. When "
        "these figures were taken, no exact way did. Now a normalization is "
        "written out where that saves more than it costs. Measured again on "
        "torch on 2026-11-28, Tiny, Small, Base, and Large keep 0.415, 0.396, "
        "0.395, and 0.399 of their parameters (`exact=False`: 0.1 % of these "
        "less), with differences of 7e-7, 6e-7, 7e-7, and 1e-6. With half of "
        "each group closed by scores, ConvNeXtTiny keeps 25 %",
    ),
    (
        "Xception, NASNet",
        'a "same" `SeparableConv2D` treats each channel alone before it '
        "mixes them. Its zero border makes constants vary from place to "
        "place, so they can't merge into one channel",
    ),
]
SUMMARY = """# Coverage

Networks that `prune` was tried on, besides the test suite, with random
weights. Each pruned network was compared with its gated original, or with the
user's own model with its closed channels at zero. The tables of all networks,
and what each figure means, are [in the log](coverage-log.md). [Supported
layers](layers.md) lists the layers that have rules.

"""
APPLICATIONS = """All networks of `keras.applications` with 10 outputs. *Equal*
means equal up to rounding: the largest difference, relative to the largest
output, is small compared with what a change of 1e-7 in the inputs does.

    KERAS_BACKEND=torch python benchmarks/coverage.py

"""
INTRO = """# Coverage in full

{intro} The [summary](coverage.md) is on one screen.

The networks are those of `keras.applications`, with random weights, 10
outputs, and the smallest inputs they take. The statistics of their
normalizations are those of real activations, disturbed, so that outputs vary
with the inputs. Each is pruned and compared with its own gated original, whose
closed factors are exactly 0:

- *parameters*, *MACs*: the share that is left; multiply-adds of the kernels;
- *difference*: the largest difference, relative to the largest output, of the
  worst of one batch;
- *probe*: what a change of 1e-7 in the inputs does to the outputs of the
  original, on the worst of the backends. A network that magnifies rounding
  shows it here. Outputs count as *equal* up to {rounding:g}, or {factor} times
  the probe, if the number of parameters left is also what the plan said. Where
  the probe is above {tells:g}, unless the outputs are the same to the last
  bit, or where outputs vary by less than that from input to input, the result
  is *can't tell*;
- *s*: seconds of `prune`, one cold call each on a busy machine. This is no
  benchmark; see [Performance](performance.md).

`KERAS_BACKEND=... python benchmarks/coverage.py` measures, and `python
benchmarks/coverage_report.py` writes this page.

"""
NOTES = {
    "after": ["A closed channel is zero after its gate.", ""],
    "before": [
        "A closed channel is a nonzero constant after the normalization. "
        "*`exact=False`*: the share of parameters that would be left if "
        "constants were absorbed across zero borders. *More channels*: how "
        "many more the layer that differs most keeps in order to be exact.",
        "",
    ],
    "branches": [
        "The operand of an addition that comes the longer way; in networks "
        "without additions (DenseNet, InceptionV3), the last operand of each "
        "concatenation. MobileNet and VGG have neither.",
        "",
    ],
    "identity": ["", ""],
}
MORE = (
    "The others keep at most {few} more in any layer: one per tensor, into "
    "which all constants at a zero border merge, or none."
)
BARRIERS = "Layers that are kept whole, and the reason that the plan gives."
BEYOND = (
    "Small networks with gates of their own, half of them closed "
    "(`tests/surgeon/networks_beyond.py`). The suite also checks the width of "
    "each of their layers."
)
BEYOND_SHORT = (
    "Small networks of other kinds, half of their gates closed: {names} "
    "(`tests/surgeon/networks_beyond.py`)."
)
HUB_SHORT = """Backbones from small configs. Half of the heads, hidden units,
and stream width, and every other block are closed. *A second truth* is the
backbone itself with zeros in its weights.

    KERAS_BACKEND=torch python benchmarks/hub.py --packages DIR"""
HUB = """Backbones from small configs, with random weights. Half of each group
is closed, by the norms of its kernels. *Width* adds a `Dense` layer after each
output, because the stream of a bare backbone is an output. *Depth* closes
every other block. *Left* is the share of the parameters. *Class* says what the
backbone itself becomes: without closing its width, and with fewer blocks.

Each is compared by `verify`, which runs the backbone itself with the closed
channels at 0. Where the sizes of a backbone distinguish heads, hidden layers,
and stream, it is also compared with the backbone with zeros in its weights.
This second truth uses nothing of ours but the list of what is closed. For
depth, and for gates in convolutional networks, the second truth is what the
gated backbone itself predicts. The figures are those of the first backend, the
differences those of the worst. *Equal* is up to {rounding:g}, or {factor}
times the *probe*: what a change of 1e-7 in all weights does.

    KERAS_BACKEND=torch python benchmarks/hub.py --packages DIR
    python benchmarks/coverage_report.py"""
ZOO_SHORT = """Networks of other packages, with layers of their own that have
no rule and are seen through.

    python benchmarks/zoo.py --packages DIR"""
ZOO = """Networks of packages that pip installs without their weights, with
random weights and, where there is a choice, the sizes of a toy. They contain
layers of their own, which have no rule and are seen through. Each is pruned
twice in a process of its own, with 60 seconds of a core for each:

- *scores*: half of each group by the norms of its kernels (`"l2"`), compared
  by `verify`, which runs the network itself with the closed channels at 0;
- *gates*: half of the factors of each gate that `insert_gates` adds are 0,
  compared by `verify` and by what the gated network predicts.

The figures are the shares of the parameters that are left. *Equal* is up to
{rounding:g}, or {factor} times what a change of 1e-7 in the inputs does.
`python benchmarks/zoo.py --packages DIR` measures them."""
