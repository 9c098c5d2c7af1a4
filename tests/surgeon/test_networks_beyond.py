"""Networks of kinds that keras.applications does not have, pruned."""

import keras
import pytest

from keras_gates import surgeon
from tests import helpers
from tests.surgeon import networks_beyond

pytestmark = pytest.mark.once

THRESHOLD = 0.5


def pruned(build):
    """`(model, plan, pruned model)` with half of each gate closed."""
    model = helpers.randomize(build(), closed="none")
    networks_beyond.close_half(model)
    plan = surgeon.plan(model, THRESHOLD)
    return model, plan, plan.apply()


def widths(model, names):
    """The channels of these layers."""
    configs = {k.name: k.get_config() for k in helpers.layers_of(model)}
    return {
        name: configs[name].get("filters", configs[name].get("units"))
        for name in names
    }


@pytest.mark.parametrize(
    "build", networks_beyond.TABLE, ids=lambda build: build.__name__
)
def test_is_exact_and_as_small_as_it_should_be(build):
    model, plan, small = pruned(build)
    helpers.assert_same(model, small)
    assert plan.params == (model.count_params(), small.count_params())
    expected = networks_beyond.expected(build)
    assert widths(small, expected) == expected


def test_attention_keeps_its_heads():
    model, _, small = pruned(networks_beyond.transformer)
    for name in ("attention0", "attention1"):
        sizes = [m.get_layer(name).count_params() for m in (model, small)]
        assert sizes[0] == sizes[1]


def test_what_reads_fewer_channels_has_a_smaller_kernel():
    _, _, small = pruned(networks_beyond.crnn)
    reader = small.get_layer("reader")
    assert reader.forward_layer.cell.kernel.shape == (12, 24)


def test_a_tower_stays_one_model_called_twice():
    _, _, small = pruned(networks_beyond.siamese)
    towers = [k for k in small.layers if isinstance(k, keras.Model)]
    assert [k.name for k in towers] == ["tower"]


def test_heads_stay_shared_and_outputs_keep_their_names():
    model, _, small = pruned(networks_beyond.detector)
    assert list(model.output) == list(small.output)
    names = [layer.name for layer in small.layers]
    assert names.count("head") == 1
