"""The gate layers against numpy, in every kind of Keras model."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_gates.constraints import UnitInterval
from keras_gates.layers import BlockGate
from keras_gates.layers import BranchGate
from keras_gates.layers import FilterGate
from keras_gates.layers import LayerGate
from keras_gates.regularizers import L1

# Keras hands tensors and variables to np.array, which NumPy 2 deprecates for
# objects whose __array__ takes no `copy` (torch tensors, Keras variables).
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)

SCALAR_GATES = [LayerGate, BranchGate, BlockGate]
GATES = [FilterGate, *SCALAR_GATES]
KINDS = ["filter", "layer", "branch", "block"]


def array(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def numpy_gate(inputs, factor, axis):
    """The truth: multiply along `axis`, or by the one factor."""
    if factor.ndim == 0:
        return inputs * factor
    moved = np.moveaxis(inputs, axis, -1)
    return np.moveaxis(moved * factor, -1, axis)


def set_factor(gate, seed=7):
    factor = array(tuple(gate.factor.shape), seed)
    gate.factor.assign(factor)
    return np.asarray(factor)


def factor_of(gate):
    return ops.convert_to_numpy(gate.factor)


def sequential(gate, shape):
    return keras.Sequential([keras.Input(shape), gate])


def functional(gate, shape):
    inputs = keras.Input(shape)
    return keras.Model(inputs, gate(inputs))


@keras.saving.register_keras_serializable(package="keras_gates_tests")
class OneGate(keras.Model):
    def __init__(self, gate, **kwargs):
        super().__init__(**kwargs)
        self.gate = gate

    def call(self, inputs):
        return self.gate(inputs)

    def get_config(self):
        gate = keras.saving.serialize_keras_object(self.gate)
        return {**super().get_config(), "gate": gate}

    @classmethod
    def from_config(cls, config):
        gate = keras.saving.deserialize_keras_object(config.pop("gate"))
        return cls(gate, **config)


def subclassed(gate, shape):
    model = OneGate(gate)
    model(np.zeros((1, *shape), "float32"))
    return model


MODELS = [sequential, functional, subclassed]


@pytest.mark.parametrize(
    "gate_class, kind", list(zip(GATES, KINDS, strict=True))
)
def test_kind(gate_class, kind):
    assert gate_class.kind == kind


@pytest.mark.parametrize(
    "shape, axis",
    [
        ((2, 3), -1),
        ((2, 3), 1),
        ((2, 5, 3), -1),
        ((2, 5, 3), 1),
        ((2, 4, 5, 3), -1),
        ((2, 3, 4, 5), 1),
        ((2, 3, 4, 5), -3),
        ((2, 3, 4, 5), 2),
        ((2, 3, 2, 4, 5), 1),
        ((2, 3, 2, 4, 2, 5), -1),
    ],
)
def test_filter_gate_is_a_product_along_its_axis(shape, axis):
    gate = FilterGate(axis=axis)
    gate.build(shape)
    factor = set_factor(gate)
    assert factor.shape == (shape[axis],)
    outputs = ops.convert_to_numpy(gate(array(shape)))
    # One float32 multiplication, correctly rounded by both.
    np.testing.assert_array_equal(
        outputs, numpy_gate(array(shape), factor, axis)
    )
    assert gate.compute_output_shape(shape) == shape


@pytest.mark.parametrize("gate_class", SCALAR_GATES)
@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 4, 4, 3)])
def test_scalar_gates_are_a_product_with_one_factor(gate_class, shape):
    gate = gate_class()
    gate.build(shape)
    factor = set_factor(gate)
    assert factor.shape == ()
    np.testing.assert_array_equal(
        ops.convert_to_numpy(gate(array(shape))), array(shape) * factor
    )
    assert gate.compute_output_shape(shape) == shape


@pytest.mark.parametrize("gate_class", GATES)
def test_new_gate_changes_nothing(gate_class):
    gate = gate_class()
    outputs = ops.convert_to_numpy(gate(array((2, 4))))
    np.testing.assert_array_equal(outputs, array((2, 4)))
    assert gate.factor.name == "factor"
    assert gate.weights == gate.trainable_weights
    assert len(gate.weights) == 1


@pytest.mark.parametrize("gate_class", GATES)
@pytest.mark.parametrize(
    "initializer, low, high",
    [
        ("uniform", 0.0, 1.0),
        ("random_uniform", -0.05, 0.05),
        (keras.initializers.Constant(0.5), 0.5, 0.5),
    ],
)
def test_initializers(gate_class, initializer, low, high):
    gate = gate_class(initializer=initializer)
    gate.build((2, 1000))
    factor = factor_of(gate)
    assert low <= factor.min() and factor.max() <= high
    if factor.size > 1:
        # 1000 draws miss the outer tenth of the range with odds of 1e-45.
        assert factor.max() >= high - 0.1 * (high - low)
        assert factor.min() <= low + 0.1 * (high - low)


def test_uniform_gates_differ_from_each_other():
    first, second = (FilterGate(initializer="uniform") for _ in range(2))
    first.build((2, 8))
    second.build((2, 8))
    assert np.any(factor_of(first) != factor_of(second))


@pytest.mark.parametrize("gate_class", GATES)
@pytest.mark.parametrize("make_model", MODELS)
def test_gradients_equal_numpy(gate_class, make_model):
    gate = gate_class()
    model = make_model(gate, (4, 3))
    factor = set_factor(gate)
    model.compile(optimizer=keras.optimizers.SGD(1.0), loss="mse")
    inputs, targets = array((5, 4, 3), 1), array((5, 4, 3), 2)
    model.train_on_batch(inputs, targets)
    upstream = 2 * (inputs * factor - targets) / inputs.size
    per_channel = np.sum(upstream * inputs, axis=(0, 1))
    gradient = per_channel if factor.ndim else per_channel.sum()
    # Sums of 60 float32 products, of order 1: some 60 roundings of 6e-8.
    np.testing.assert_allclose(factor_of(gate), factor - gradient, atol=1e-5)


def test_gradient_passes_through_the_gate():
    gate = FilterGate()
    dense = keras.layers.Dense(3, use_bias=False)
    model = keras.Sequential([keras.Input((4,)), dense, gate])
    factor = set_factor(gate)
    kernel = ops.convert_to_numpy(dense.kernel).copy()
    model.compile(optimizer=keras.optimizers.SGD(1.0), loss="mse")
    inputs, targets = array((5, 4), 1), array((5, 3), 2)
    model.train_on_batch(inputs, targets)
    upstream = 2 * (inputs @ kernel * factor - targets) / targets.size
    gradient = inputs.T @ (upstream * factor)
    np.testing.assert_allclose(
        ops.convert_to_numpy(dense.kernel), kernel - gradient, atol=1e-5
    )


@pytest.mark.parametrize("gate_class", GATES)
@pytest.mark.parametrize(
    "policy, compute_dtype",
    [
        ("float32", "float32"),
        ("mixed_float16", "float16"),
        ("mixed_bfloat16", "bfloat16"),
        ("bfloat16", "bfloat16"),
        ("float16", "float16"),
    ],
)
def test_factor_is_float32_under_every_policy(
    gate_class, policy, compute_dtype
):
    gate = gate_class(dtype=policy)
    symbolic = gate(keras.Input((3,)))
    outputs = gate(array((2, 3)))
    assert keras.backend.standardize_dtype(symbolic.dtype) == compute_dtype
    assert keras.backend.standardize_dtype(outputs.dtype) == compute_dtype
    assert gate.factor.dtype == "float32"


def test_small_steps_survive_mixed_precision():
    # 1 - 1e-4 rounds to 1 in bfloat16, so there the penalty would do nothing.
    gate = FilterGate(regularizer=L1(1e-4), dtype="mixed_bfloat16")
    model = sequential(gate, (3,))
    model.compile(optimizer=keras.optimizers.SGD(1.0), loss="mse")
    nothing = np.zeros((4, 3), "float32")
    model.fit(nothing, nothing, epochs=3, verbose=0)
    # float32 steps near 1 carry a rounding of 6e-8 each.
    np.testing.assert_allclose(factor_of(gate), 1 - 3e-4, atol=3e-7)


@pytest.mark.parametrize("dtype", ["int32", "float16", "float64"])
def test_inputs_are_cast_to_the_compute_dtype(dtype):
    gate = FilterGate()
    inputs = ops.convert_to_tensor(np.array([[1, 2]], dtype))
    outputs = gate(inputs)
    assert keras.backend.standardize_dtype(outputs.dtype) == "float32"
    np.testing.assert_array_equal(ops.convert_to_numpy(outputs), [[1, 2]])


@pytest.mark.parametrize("gate_class", GATES)
def test_sparse_inputs(gate_class):
    dense = np.array([[0, 2, 0], [3, 0, 0]], "float32")
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        inputs = tf.sparse.from_dense(dense)
    elif keras.backend.backend() == "jax":
        from jax.experimental import sparse

        inputs = sparse.BCOO.fromdense(dense)
    else:
        pytest.skip("Keras has no sparse tensors on this backend")
    model_inputs = keras.Input((3,), sparse=True)
    gate = gate_class()
    model = keras.Model(model_inputs, gate(model_inputs))
    factor = set_factor(gate)
    outputs = ops.convert_to_numpy(model(inputs))
    np.testing.assert_array_equal(outputs, dense * factor)


@pytest.mark.parametrize("gate_class", GATES)
def test_mask_is_passed_on(gate_class):
    tokens = np.array([[1, 2, 0, 0], [3, 1, 2, 0]])
    inputs = keras.Input((4,), dtype="int32")
    x = keras.layers.Embedding(4, 3, mask_zero=True)(inputs)
    gate = gate_class()
    x = gate(x)
    model = keras.Model(inputs, keras.layers.LSTM(2)(x))
    set_factor(gate)
    padded = ops.convert_to_numpy(model(tokens))
    for row, length in enumerate([2, 3]):
        # Without the mask the LSTM would run on over the padding.
        alone = np.zeros((1, 4), int)
        alone[0, :length] = tokens[row, :length]
        embedded = model.layers[1](alone[:, :length])
        expected = model.layers[-1](gate(embedded))
        np.testing.assert_allclose(
            padded[row], ops.convert_to_numpy(expected)[0], atol=1e-6
        )


@pytest.mark.parametrize("gate_class", GATES)
def test_a_shared_gate_has_one_weight(gate_class):
    first, second = keras.Input((3,)), keras.Input((5, 3))
    gate = gate_class()
    model = keras.Model([first, second], [gate(first), gate(second)])
    assert len(model.weights) == 1
    factor = set_factor(gate)
    arrays = [array((2, 3)), array((2, 5, 3))]
    outputs = model(arrays)
    for x, y in zip(arrays, outputs, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(y), x * factor)


def test_activity_regularizer_acts_on_the_output():
    gate = FilterGate(activity_regularizer=keras.regularizers.L1(0.5))
    gate.build((2, 3))
    factor = set_factor(gate)
    inputs = array((2, 3))
    gate(inputs)
    # Keras divides by the batch size.
    expected = 0.5 * np.abs(inputs * factor).sum() / 2
    np.testing.assert_allclose(
        float(ops.stop_gradient(gate.losses[0])), expected, rtol=1e-6
    )


def configured(gate_class):
    return gate_class(
        initializer="uniform",
        regularizer=L1(0.25),
        activity_regularizer=keras.regularizers.L2(0.5),
        constraint=UnitInterval(),
        name="my_gate",
        **({"axis": 1} if gate_class is FilterGate else {}),
    )


@pytest.mark.parametrize("gate_class", GATES)
def test_config_round_trip(gate_class):
    gate = configured(gate_class)
    config = gate.get_config()
    copy = gate_class.from_config(config)
    assert copy.get_config() == config
    assert copy.name == "my_gate"
    assert copy.regularizer.l1 == 0.25
    assert copy.initializer.maxval == 1.0
    assert isinstance(copy.constraint, UnitInterval)
    assert copy.activity_regularizer.l2 == 0.5


@pytest.mark.parametrize("gate_class", GATES)
@pytest.mark.parametrize("make_model", MODELS)
def test_save_and_load(gate_class, make_model, tmp_path):
    gate = configured(gate_class)
    model = make_model(gate, (4, 3))
    factor = set_factor(gate)
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    inputs = array((2, 4, 3))
    np.testing.assert_array_equal(
        ops.convert_to_numpy(loaded(inputs)),
        numpy_gate(inputs, factor, axis=1),
    )
    (regularization,) = [w.regularizer for w in loaded.weights]
    assert regularization.l1 == 0.25


@pytest.mark.parametrize("gate_class", GATES)
def test_clone_has_weights_of_its_own(gate_class):
    gate = gate_class(constraint=UnitInterval())
    model = functional(gate, (3,))
    set_factor(gate)
    clone = keras.models.clone_model(model)
    clone_gate = clone.layers[-1]
    assert clone_gate.factor is not gate.factor
    assert clone_gate.constraint is not gate.constraint
    np.testing.assert_array_equal(factor_of(clone_gate), 1.0)


def test_channels_first_convolution():
    # Only the axis is tested, so Permute stands in for a convolution, which
    # TensorFlow lacks on a CPU for channels first.
    last = keras.Sequential([keras.Input((4, 5, 3)), FilterGate()])
    first = keras.Sequential(
        [
            keras.Input((4, 5, 3)),
            keras.layers.Permute((3, 1, 2)),
            FilterGate(axis=1),
            keras.layers.Permute((2, 3, 1)),
        ]
    )
    factor = array((3,))
    last.set_weights([factor])
    first.set_weights([factor])
    inputs = array((2, 4, 5, 3))
    np.testing.assert_array_equal(
        ops.convert_to_numpy(first(inputs)), ops.convert_to_numpy(last(inputs))
    )


@pytest.mark.skipif(
    keras.backend.backend() == "torch",
    reason="torch.compile takes a minute to start and needs a C++ compiler",
)
def test_training_step_under_xla():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4),
            FilterGate(regularizer=L1(0.1), constraint=UnitInterval()),
            LayerGate(),
            BranchGate(),
            BlockGate(),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.SGD(0.1), loss="mse", jit_compile=True
    )
    history = model.fit(array((4, 3)), array((4, 4)), verbose=0)
    assert np.isfinite(history.history["loss"][0])


def test_l1_and_unit_interval_reach_exact_zeros():
    # The target uses channel 0 only. Its gate meets the data with gradient
    # 2 / 3 * (factor - 1) and the penalty with 0.1, so it rests at 0.85.
    gate = FilterGate(regularizer=L1(0.1), constraint=UnitInterval())
    model = sequential(gate, (3,))
    model.compile(optimizer=keras.optimizers.SGD(0.5), loss="mse")
    inputs = np.array([[1, 1, 1], [-1, 1, -1], [1, -1, -1], [-1, -1, 1]])
    targets = inputs * [1, 0, 0]
    model.fit(inputs, targets, epochs=30, shuffle=False, verbose=0)
    factor = factor_of(gate)
    np.testing.assert_array_equal(factor[1:], 0.0)
    # Contraction by 2 / 3 a step: (2 / 3) ** 30 = 5e-6 is left.
    np.testing.assert_allclose(factor[0], 0.85, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1.0, None, "last", (1,)])
def test_axis_must_be_an_integer_and_not_the_batch(axis):
    with pytest.raises(ValueError, match=r"'my_gate' cannot gate this axis"):
        FilterGate(axis=axis, name="my_gate")


@pytest.mark.parametrize(
    "axis, shape, message",
    [
        (3, (None, 4, 5), r"'g' cannot be built: axis 3 .*\(None, 4, 5\)"),
        (-4, (None, 4, 5), r"'g' cannot be built: axis -4 .* from -2 to -1"),
        (-2, (None, 4), r"axis -2 is the batch axis"),
        (-1, (4,), r"axis -1 is the batch axis"),
        (1, (None, None, 4), r"'g' cannot be built: the size of axis 1"),
        (-1, (None, None), r"Give that size in keras.Input"),
    ],
)
def test_axis_must_exist_and_have_a_size(axis, shape, message):
    with pytest.raises(ValueError, match=message):
        FilterGate(axis=axis, name="g").build(shape)


def test_unknown_channels_are_refused_in_a_model():
    with pytest.raises(ValueError, match="'g'"):
        FilterGate(name="g")(keras.Input((None,)))


@pytest.mark.parametrize("shape", [(2, 4), (2, 5, 4)])
def test_filter_gate_refuses_another_width(shape):
    gate = FilterGate(name="g")
    gate(array((2, 3)))
    with pytest.raises(ValueError, match="'?g'?.* expected axis -1"):
        gate(array(shape))


def test_filter_gate_refuses_a_lower_rank():
    gate = FilterGate(axis=2, name="g")
    gate(array((2, 3, 4)))
    with pytest.raises(ValueError, match="min_ndim=3"):
        gate(array((2, 4)))


@pytest.mark.parametrize("gate_class", GATES)
@pytest.mark.parametrize("count", [1, 2])
def test_gates_refuse_lists(gate_class, count):
    gate = gate_class(name="my_gate")
    with pytest.raises(ValueError, match="my_gate"):
        gate([array((2, 3))] * count)
