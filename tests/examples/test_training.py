"""What the examples have in common: data and trainings that can be cut off."""

import importlib

import keras
import numpy as np
import pytest
from keras import layers as L

from tests import helpers
from tests.examples import scripts

pytestmark = pytest.mark.trains


@pytest.fixture
def training(monkeypatch):
    monkeypatch.syspath_prepend(str(scripts.EXAMPLES))
    return importlib.import_module("training")


class Cut(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_a_training_that_was_cut_goes_on_as_it_would_have(
    training, dataset, tmp_path
):
    data = training._made_up(dataset, 32)
    data.shift, data.in_turn = 2, True

    def trained(folder, *callbacks):
        keras.utils.set_random_seed(0)
        shape = data.x_train.shape[1:]
        layers = [keras.Input(shape), L.Flatten(), L.Dense(10)]
        return training.fit(
            keras.Sequential(layers),
            data,
            tmp_path / folder,
            name=folder,
            epochs=4,
            rate=0.1,
            batch_size=8,
            callbacks=callbacks,
        )

    whole = trained("whole")
    with pytest.raises(KeyboardInterrupt):
        trained("cut", Cut())
    again = trained("cut")
    for a, b in zip(again.weights, whole.weights, strict=True):
        np.testing.assert_array_equal(helpers.numpy_of(a), helpers.numpy_of(b))


def test_no_two_epochs_have_the_same_batches(training):
    data = training._made_up("cifar10", 32)
    data.shift, data.in_turn = 2, True
    batches = training.Batches(data, 8, 0)
    found = []
    for epoch in range(4):
        batches.begin(epoch)
        found.append(batches[0][0])
    assert all((a != b).any() for n, a in enumerate(found) for b in found[:n])
    batches.begin(1)
    np.testing.assert_array_equal(batches[0][0], found[1])
