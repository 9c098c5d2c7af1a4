"""Models whose constructors make their layers, with layers in common.

A language model reads its table back that its backbone looks words up in, and
decodes by its own methods: these work while the class is kept.
"""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from tests import helpers

PACKAGE = "tests.language_models"
WORDS, WIDTH, INNER = 13, 8, 12
HALF = kg.Quantile(0.5, scope="gate")
register = keras.saving.register_keras_serializable(PACKAGE)
pytestmark = pytest.mark.skipif(
    not hasattr(L, "ReversibleEmbedding"),
    reason="this Keras has no ReversibleEmbedding",
)


@register
class Decoder(L.Layer):
    """Attention to what came before, for any length, and two Dense layers."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def build(self, shape):
        width = shape[-1]
        self.query = L.Dense(width, name="query")
        self.value = L.Dense(width, name="value")
        self.up = L.Dense(self.inner, activation="relu", name="up")
        self.down = L.Dense(width, name="down")
        for layer in (self.query, self.value, self.up):
            layer.build(shape)
        self.down.build((*shape[:-1], self.inner))

    def call(self, x):
        steps = ops.shape(x)[1]
        scores = ops.einsum("bic,bjc->bij", self.query(x), x)
        seen = ops.arange(steps)[:, None] >= ops.arange(steps)[None, :]
        weights = ops.softmax(ops.where(seen[None], scores, -1e9), axis=-1)
        x = x + ops.matmul(weights, self.value(x))
        return x + self.down(self.up(x))

    def compute_output_shape(self, shape):
        return shape

    def get_config(self):
        return {**super().get_config(), "inner": self.inner}


@register
class Told(Decoder):
    """Tells more than its constructor takes, so that no file holds it."""

    def get_config(self):
        return {**super().get_config(), "width": self.query.units}


@register
class Backbone(keras.Model):
    decoder = Decoder

    def __init__(self, inner, **kwargs):
        words = L.ReversibleEmbedding(WORDS, WIDTH, name="words")
        x = keras.Input((None,), dtype="int32", name="x")
        h = words(x)
        for n in range(2):
            h = self.decoder(inner, name=f"decoder_{n}")(h)
        super().__init__(x, h, **kwargs)
        self.inner, self.words = inner, words

    def get_config(self):
        return {"name": self.name, "inner": self.inner}


@register
class ToldBackbone(Backbone):
    decoder = Told


@register
class LanguageModel(keras.Model):
    def __init__(self, backbone, **kwargs):
        x = backbone.input
        y = backbone.words(backbone(x), reverse=True)
        super().__init__(x, y, **kwargs)
        self.backbone = backbone

    def generate(self, words, count):
        """The likeliest words, one after the other."""
        for _ in range(count):
            logits = helpers.numpy_of(self(words))
            words = np.append(words, logits[:, -1:].argmax(-1), axis=1)
        return words

    def get_config(self):
        backbone = keras.saving.serialize_keras_object(self.backbone)
        return {"name": self.name, "backbone": backbone}

    @classmethod
    def from_config(cls, config):
        backbone = keras.saving.deserialize_keras_object(config["backbone"])
        return cls(backbone, name=config["name"])


def language_model():
    backbone = Backbone(INNER, name="backbone")
    model = LanguageModel(backbone, name="model")
    random = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(random.normal(size=weight.shape) * 0.5)
    return model


def some_words():
    return np.random.default_rng(0).integers(0, WORDS, (3, 5))


def inner_plan(model):
    scores = kg.surgeon.score(model, "l2")
    scores = {n: x for n, x in scores.items() if n.endswith("/up")}
    assert len(scores) == 2
    return kg.surgeon.plan(model, HALF, scores=scores)


def close(backbone, plan):
    """Zeros in the rows that read what is closed."""
    for name, closed in plan.closed.items():
        kernel = backbone.get_layer(name.split("/")[-2]).down.kernel
        value = helpers.numpy_of(kernel).copy()
        value[closed] = 0.0
        kernel.assign(value)


def test_the_class_is_kept_and_generates_the_same_words(tmp_path):
    model = language_model()
    plan = inner_plan(model)
    small = plan.apply()
    assert type(small) is LanguageModel
    assert type(small.backbone) is Backbone and small.backbone.inner == 6
    assert small.backbone.words is small.get_layer("words")
    words = some_words()
    got = small.generate(words, 6)
    assert max(plan.verify(small, words).values()) < helpers.RTOL
    small.save(tmp_path / "small.keras")
    again = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(again.generate(words, 6), got)
    before = model.generate(words, 6)
    close(model.backbone, plan)
    np.testing.assert_array_equal(got, model.generate(words, 6))
    assert not np.array_equal(got, before)


@pytest.mark.parametrize("cls", [Backbone, ToldBackbone])
def test_what_a_backbone_shares_stays_shared(cls):
    """The table of a kept backbone is that of the layers around it."""
    backbone = cls(INNER, name="backbone")
    x = keras.Input((None,), dtype="int32")
    model = keras.Model(x, backbone.words(backbone(x), reverse=True))
    plan = inner_plan(model)
    small = plan.apply()
    inside = small.get_layer("backbone")
    assert type(inside) is cls and inside.inner == 6
    assert inside.get_layer("words") is small.get_layer("words")
    assert small.count_params() == plan.params[1]
    words = some_words()
    close(backbone, plan)
    want = helpers.numpy_of(model(words))
    np.testing.assert_allclose(
        helpers.numpy_of(small(words)), want, atol=1e-5 * np.abs(want).max()
    )


@register
class Normed(Decoder):
    """With a normalization, whose class does not stay if its channels go."""

    def build(self, shape):
        super().build(shape)
        self.norm = L.LayerNormalization(name="norm")
        self.norm.build(shape)

    def call(self, x):
        return super().call(self.norm(x))


@register
class NormedBackbone(Backbone):
    decoder = Normed


def test_a_stream_that_keeps_layers_from_coming_back_is_left_alone():
    backbone = NormedBackbone(INNER, name="backbone")
    y = L.Dense(3, name="read")(backbone.output)
    model = keras.Model(backbone.input, y)
    helpers.randomize(model, x=some_words())
    scores = kg.surgeon.score(model, "l2")
    plan = kg.surgeon.plan(model, HALF, scores=scores)
    small = plan.apply()
    assert type(small.get_layer("decoder_0")) is Normed
    assert small.get_layer("decoder_0").inner == INNER // 2
    assert any("'words' stay: without them" in note for note in plan.notes)
    assert max(plan.verify(small, some_words()).values()) < helpers.RTOL
    # Alone it is refused, and the layer is named.
    stream = {"words": scores["words"]}
    with pytest.raises(ValueError, match="Layer 'decoder_0' is kept whole"):
        kg.surgeon.plan(model, HALF, scores=stream)
