"""Every row of the tables of rules leads to a class of Keras."""

import keras
import pytest

from keras_gates.graphs import private
from keras_gates.surgeon.rules.layer_table import HIDDEN_LAYERS
from keras_gates.surgeon.rules.layer_table import LAYERS
from keras_gates.surgeon.rules.operation_table import OPERATIONS

# All rows lead to a class in this version of Keras, and in later ones.
COMPLETE = (3, 15)
# What the lowest version lacks; those between lack some of it.
LOWEST = (3, 9)
LACKED_LAYERS = set(
    """
    AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D
    AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveAveragePooling3D
    RandomElasticTransform ReversibleEmbedding
    """.split()
)
LACKED_OPERATIONS = set(
    """
    nn.SparseSigmoid numpy.Cbrt numpy.Sinc numpy.I0 numpy.Isneginf
    numpy.Isposinf numpy.Isreal numpy.Deg2rad numpy.Rad2deg numpy.Fabs
    math.Erfc numpy.Fmax numpy.Fmin numpy.Fmod numpy.Hypot numpy.Logaddexp2
    numpy.Heaviside numpy.Ldexp numpy.Gcd numpy.Lcm numpy.Nanmedian
    numpy.Nanmax numpy.Nanmin numpy.Nanmean numpy.Nansum numpy.Nanstd
    numpy.Ptp numpy.Percentile numpy.Nanquantile numpy.Nanpercentile
    numpy.Nanprod numpy.Nanvar numpy.Nanargmax numpy.Nanargmin
    numpy.Trapezoid numpy.Nancumsum numpy.Nancumprod nn.DepthToSpace
    nn.SpaceToDepth numpy.Dstack numpy.Fliplr numpy.Flipud numpy.ArraySplit
    numpy.Hsplit numpy.Vsplit numpy.Dsplit
    """.split()
)
VERSION = tuple(map(int, keras.__version__.split(".")[:2]))
TABLES = {
    "layers": (LAYERS, lambda n: getattr(keras.layers, n, None), LACKED_LAYERS),
    "hidden layers": (HIDDEN_LAYERS, private.layer_class, set()),
    "operations": (OPERATIONS, private.operation, LACKED_OPERATIONS),
}


@pytest.mark.parametrize("name", TABLES)
def test_each_row_leads_to_a_class(name):
    table, class_of, lacked = TABLES[name]
    lacking = {row for row in table if class_of(row) is None}
    if VERSION >= COMPLETE:
        assert not lacking
    elif VERSION == LOWEST:
        assert lacking == lacked
    else:
        assert lacking <= lacked


@pytest.mark.parametrize("name", TABLES)
def test_what_is_lacked_is_a_row(name):
    table, _, lacked = TABLES[name]
    assert lacked <= table.keys()


@pytest.mark.parametrize("name", TABLES)
def test_a_row_leads_to_a_class_of_its_kind(name):
    table, class_of, _ = TABLES[name]
    kind = keras.Operation if name == "operations" else keras.Layer
    found = [class_of(row) for row in table]
    assert all(issubclass(cls, kind) for cls in found if cls is not None)
    assert len(found) == len(table) > 0


def test_OF_SETTING():
    layer = keras.layers.Dense(2)
    before = {k: list(v) for k, v in vars(layer).items() if type(v) is list}
    layer.notes = [1]
    after = {k: list(v) for k, v in vars(layer).items() if type(v) is list}
    changed = {k for k in before if after[k] != before[k]}
    assert changed <= private.OF_SETTING
