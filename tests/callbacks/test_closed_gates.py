"""The callbacks, seen from the history and from the progress bar."""

import re

import keras
import numpy as np
import pytest

from keras_gates.callbacks import BindSoftThreshold
from keras_gates.callbacks import ClosedGates
from keras_gates.constraints import SoftThreshold
from keras_gates.layers import BlockGate
from keras_gates.layers import BranchGate
from keras_gates.layers import FilterGate
from keras_gates.layers import LayerGate

# Keras hands tensors and variables to np.array, which NumPy 2 deprecates for
# objects whose __array__ takes no `copy` (torch tensors, Keras variables).
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)

DATA = np.ones((4, 4), "float32")
# |factor| < 0.5 holds for two of four: strictly, and whatever the sign.
FILTERS = [0.5, -0.25, 1.0, 0.0]


def gates():
    return [FilterGate(), LayerGate(), BranchGate(), BlockGate()]


def sequential(parts):
    return keras.Sequential([keras.Input((4,)), *parts])


def nested(parts):
    inner = keras.Sequential([keras.Input((4,)), *parts[1:]])
    inputs = keras.Input((4,))
    return keras.Model(inputs, inner(parts[0](inputs)))


class Subclassed(keras.Model):
    def __init__(self, parts):
        super().__init__()
        self.first = parts[0]
        self.others = {"list": parts[1:]}

    def call(self, inputs):
        x = self.first(inputs)
        for part in self.others["list"]:
            x = part(x)
        return x


def wrapped(parts):
    model = sequential(parts)
    return Subclassed([model])


MODELS = [sequential, nested, Subclassed, wrapped]


def fit(model, callbacks, parts=None, epochs=1, verbose=0, **arguments):
    # A rate of 0: the factors are what the test has set.
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss="mse")
    model(DATA)
    for part in parts or []:
        values = FILTERS if part.kind == "filter" else 1.0
        part.factor.assign(values)
    return model.fit(
        DATA,
        DATA,
        epochs=epochs,
        verbose=verbose,
        callbacks=callbacks,
        **arguments,
    )


@pytest.mark.parametrize("make_model", MODELS)
@pytest.mark.parametrize(
    "thresholds, expected",
    [
        (0.5, {"closed_gates": 2 / 7}),
        (0, {"closed_gates": 0.0}),
        (2, {"closed_gates": 1.0}),
        (
            {"filter": 0.5},
            {"closed_gates": 0.5, "closed_filter_gates": 0.5},
        ),
        (
            {"filter": 0.5, "layer": 1.5, "block": 1.0},
            {
                "closed_gates": 0.5,
                "closed_filter_gates": 0.5,
                "closed_layer_gates": 1.0,
                "closed_block_gates": 0.0,
            },
        ),
    ],
)
def test_history_holds_the_share(make_model, thresholds, expected):
    parts = gates()
    model = make_model(parts)
    history = fit(model, [ClosedGates(thresholds)], parts, epochs=2).history
    shares = {k: v for k, v in history.items() if k.startswith("closed")}
    assert shares == {name: [share] * 2 for name, share in expected.items()}


@pytest.mark.parametrize("verbose", [1, 2])
def test_progress_bar_shows_the_share(verbose, capsys):
    parts = gates()
    fit(sequential(parts), [ClosedGates(0.5)], parts, verbose=verbose)
    assert re.search(r"closed_gates: 0\.2857", capsys.readouterr().out)


def test_share_follows_training():
    gate = FilterGate(regularizer=keras.regularizers.L1(1.0))
    model = sequential([gate])
    model.compile(optimizer=keras.optimizers.SGD(0.4), loss="mse")
    nothing = np.zeros((4, 4), "float32")
    # 1.0 goes to 0.6, then to 0.2.
    history = model.fit(
        nothing,
        nothing,
        epochs=2,
        verbose=0,
        validation_data=(nothing, nothing),
        callbacks=[ClosedGates(0.5)],
    )
    assert history.history["closed_gates"] == [0.0, 1.0]


def test_callbacks_behind_can_read_the_share():
    parts = gates()
    stop = keras.callbacks.EarlyStopping(
        monitor="closed_gates", mode="max", baseline=0.9, patience=0
    )
    history = fit(sequential(parts), [ClosedGates(0.5), stop], parts, epochs=9)
    assert len(history.epoch) < 9


def test_a_shared_gate_is_counted_once():
    gate, other = FilterGate(), FilterGate()
    inputs = keras.Input((4,))
    model = keras.Model(inputs, other(gate(gate(inputs))))
    model.build((None, 4))
    gate.factor.assign([0.0] * 4)
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss="mse")
    history = model.fit(DATA, DATA, verbose=0, callbacks=[ClosedGates(0.5)])
    assert history.history["closed_gates"] == [0.5]


@pytest.mark.parametrize(
    "thresholds",
    [-0.1, float("nan"), None, "0.1", {"filter": -1.0}, {"layer": None}],
)
def test_bad_thresholds_are_refused(thresholds):
    with pytest.raises(ValueError, match="cannot use this `thresholds`"):
        ClosedGates(thresholds)


@pytest.mark.parametrize("thresholds", [{}, {"filters": 0.1}])
def test_unknown_kinds_are_refused(thresholds):
    with pytest.raises(ValueError, match="Expected: one or more of"):
        ClosedGates(thresholds)


@pytest.mark.parametrize(
    "parts, callback",
    [
        ([keras.layers.Dense(4)], ClosedGates(0.1)),
        ([FilterGate()], ClosedGates({"layer": 0.1})),
        ([FilterGate()], BindSoftThreshold()),
    ],
)
def test_a_callback_without_work_is_refused(parts, callback):
    with pytest.raises(ValueError, match="found nothing to"):
        fit(sequential(parts), [callback])


@pytest.mark.parametrize("make_model", MODELS)
def test_binds_every_soft_threshold(make_model):
    parts = [
        gate_class(constraint=SoftThreshold(0.1))
        for gate_class in (FilterGate, LayerGate, BranchGate, BlockGate)
    ]
    model = make_model(parts)
    fit(model, [BindSoftThreshold()])
    assert all(p.constraint.optimizer is model.optimizer for p in parts)


def test_binds_anew_after_a_second_compile():
    gate = FilterGate(constraint=SoftThreshold(0.1))
    model = sequential([gate])
    fit(model, [BindSoftThreshold()])
    first = gate.constraint.optimizer
    fit(model, [BindSoftThreshold()])
    assert gate.constraint.optimizer is model.optimizer
    assert gate.constraint.optimizer is not first
