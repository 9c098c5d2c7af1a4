"""Shares of stripes against counting by hand, and their picture."""

import builtins

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg


def striped():
    """A 3x3 layer with a skeleton, a pruned one in a nested model, a Conv2D."""
    inputs = keras.Input((8, 8, 2))
    options = {"padding": "same", "kernel_initializer": "ones"}
    first = kg.StripConv(4, 3, name="first", **options)
    x = first(inputs)
    factors = np.ones((3, 3, 4))
    factors[0, 1, :3] = 0
    factors[2, 2, :2] = (-0.25, 0.25)
    first.skeleton.assign(factors)
    inner = keras.Input((8, 8, 4))
    row = [[0, 1], [1]]
    second = kg.StripConv(2, (1, 2), stripes=[row], name="second", **options)
    block = keras.Model(inner, second(inner), name="block")
    return keras.Model(inputs, L.Conv2D(2, 3, name="last")(block(x)))


def test_shares_by_hand():
    first = np.ones((3, 3))
    first[0, 1] = 0.25
    found = kg.stats.stripe_shares(striped())
    assert list(found) == ["first", "block/second"]
    np.testing.assert_array_equal(found["first"], first)
    np.testing.assert_array_equal(found["block/second"], [[1, 0.5]])


def test_a_threshold_is_strict():
    found = kg.stats.stripe_shares(striped(), threshold=0.25)["first"]
    assert found[2, 2] == 1
    found = kg.stats.stripe_shares(striped(), threshold=0.3)["first"]
    assert found[2, 2] == 0.5


def test_the_pruned_model_has_the_shares_that_were_told():
    model = striped()
    small = kg.surgeon.prune(model, {"stripe": 0.3})
    expected = kg.stats.stripe_shares(model, threshold=0.3)
    found = kg.stats.stripe_shares(small)
    assert list(found) == list(expected)
    for name, shares in found.items():
        np.testing.assert_array_equal(shares, expected[name])


def test_a_model_without_stripes_is_refused():
    model = keras.Sequential([keras.Input((4,)), L.Dense(2)], name="mine")
    with pytest.raises(ValueError, match="'mine' has no StripConv"):
        kg.stats.stripe_shares(model)
    with pytest.raises(ValueError, match="threshold"):
        kg.stats.stripe_shares(striped(), threshold=-1)


def test_the_picture_shows_the_shares():
    pytest.importorskip("matplotlib")
    figure = kg.stats.draw_stripes(striped())
    axes = figure.axes[0]
    shown = np.ma.filled(axes.images[0].get_array(), np.nan)
    first = [1, 0.25, *[1] * 7]
    np.testing.assert_array_equal(shown[:, 0], first)
    # The smaller kernel has two positions only.
    np.testing.assert_array_equal(shown[:2, 1], [1, 0.5])
    assert np.isnan(shown[2:, 1]).all()
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["first", "block/second"]


def test_the_picture_is_a_file(tmp_path):
    plt = pytest.importorskip("matplotlib.image")
    kg.stats.draw_stripes(striped()).savefig(tmp_path / "stripes.png")
    assert min(plt.imread(tmp_path / "stripes.png").shape[:2]) > 100


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="keras_gates.report"):
        kg.stats.draw_stripes(striped())
