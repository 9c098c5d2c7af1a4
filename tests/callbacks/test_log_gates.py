"""What LogGates logs, and to what."""

import pathlib

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg


def network():
    keras.utils.set_random_seed(0)
    x = keras.Input((4,), name="x")
    h = kg.FilterGate(name="gate")(L.Dense(8, name="hidden")(x))
    h = L.Dense(6, name="narrow")(h)
    other = kg.BranchGate(name="branch")(L.Dense(6, name="other")(h))
    model = keras.Model(x, L.Dense(2)(L.Add()([h, other])), name="net")
    _ = model.get_layer("gate").factor.assign([0, 0, 1, 1, 1, 1, 1, 0.5])
    return model


class Seen:
    """A logger that keeps what it gets."""

    def __init__(self):
        self.calls = []

    def __call__(self, name, value, step):
        self.calls.append((name, value, step))

    def steps(self, name):
        return [step for found, _, step in self.calls if found == name]

    def value(self, name):
        return next(value for found, value, _ in self.calls if found == name)


DATA = np.ones((12, 4), "float32"), np.ones((12, 2), "float32")


def fit(model, *callbacks, epochs=2):
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss="mse")
    model.fit(
        *DATA, batch_size=4, epochs=epochs, verbose=0, callbacks=callbacks
    )


def test_what_is_logged_each_epoch():
    seen = Seen()
    fit(network(), kg.callbacks.LogGates(seen))
    names = ["gates/closed", "gates/closed_filter", "gates/closed_branch"]
    assert [seen.value(name) for name in names] == [2 / 9, 2 / 8, 0.0]
    # 4 x 8 and 8 x 6, of which 5.5 channels of 8 are open; 6 x 6 and 6 x 2.
    expected = ((32 + 48) * 5.5 / 8 + 36 + 12) / 128
    assert seen.value("gates/expected_macs") == pytest.approx(expected)
    values = seen.value("factors/gate")
    np.testing.assert_array_equal(values, [0, 0, 1, 1, 1, 1, 1, 0.5])
    assert {name: seen.steps(name) for name, *_ in seen.calls} == dict.fromkeys(
        [*names, "gates/expected_macs", "factors/gate", "factors/branch"],
        [0, 1],
    )


def test_every_so_many_steps_and_by_thresholds():
    seen = Seen()
    log = kg.callbacks.LogGates(
        seen, {"filter": 0.6}, every=2, cost=None, histograms=False
    )
    fit(network(), log)
    assert seen.steps("gates/closed") == [2, 4, 6]
    assert seen.value("gates/closed_filter") == 3 / 8
    assert "gates/expected_macs" not in [name for name, *_ in seen.calls]


@pytest.mark.filterwarnings("ignore:ReachBudget brings", "ignore:Budget")
def test_what_other_callbacks_tell_is_logged():
    seen, reach = Seen(), kg.callbacks.ReachBudget(macs=0.8)
    fit(network(), reach, kg.callbacks.LogGates(seen, every=3))
    assert seen.steps("gates/macs_left") == [3, 6]
    assert 0 < seen.value("gates/macs_goal") <= 1


def test_gammas():
    seen = Seen()
    model = keras.Sequential(
        [
            keras.Input((4,)),
            L.Dense(8),
            L.BatchNormalization(name="norm"),
            L.Dense(2),
        ]
    )
    log = kg.callbacks.LogGates(seen, {"batch_norm": 0.5})
    log.start(model)
    log.log(7)
    assert seen.steps("factors/norm") == [7]
    with pytest.raises(ValueError, match="no gate in"):
        kg.callbacks.LogGates(seen).start(model)


def test_a_writer_of_pytorch():
    class Writer:
        scalars, histograms, flushed = {}, {}, 0

        def add_scalar(self, name, value, step):
            self.scalars[name] = (value, step)

        def add_histogram(self, name, value, step):
            self.histograms[name] = (len(value), step)

        def flush(self):
            Writer.flushed += 1

    writer = Writer()
    log = kg.callbacks.LogGates(writer)
    log.start(network())
    log.log(3)
    assert writer.scalars["gates/closed"] == (2 / 9, 3)
    assert writer.histograms == {
        "factors/gate": (8, 3),
        "factors/branch": (1, 3),
    }
    assert Writer.flushed


@pytest.mark.once
@pytest.mark.parametrize("as_callback", [True, False])
def test_a_folder_of_tensorboard(tmp_path, as_callback):
    pytest.importorskip("tensorboard")
    pytest.importorskip("tensorflow")
    to = keras.callbacks.TensorBoard(tmp_path) if as_callback else tmp_path
    log = kg.callbacks.LogGates(to)
    log.start(network())
    log.log(1)
    (events,) = pathlib.Path(tmp_path).rglob("events*")
    assert (events.parent.name == "gates") == as_callback
    assert b"gates/expected_macs" in events.read_bytes()


BAD = {
    "to": (3, {}, TypeError, "a folder, a writer"),
    "every": (print, {"every": 0}, ValueError, "at least 1"),
    "cost": (print, {"cost": "flops"}, ValueError, "flops"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(name):
    to, more, error, words = BAD[name]
    with pytest.raises(error, match=words):
        kg.callbacks.LogGates(to, **more)


def test_a_loop_without_a_start():
    with pytest.raises(RuntimeError, match=r"Call start\(model\)"):
        kg.callbacks.LogGates(Seen()).log(0)
