"""Two small tasks for transformers: digits, and sentences of a grammar."""

import keras
import numpy as np
import training
from keras import layers

# A grammar of sentences whose verbs agree with their subjects in number.
NOUNS = {
    "one": ("cat", "dog", "bird", "child", "farmer", "house"),
    "many": ("cats", "dogs", "birds", "children", "farmers", "houses"),
}
VERBS = {
    "one": ("sees", "likes", "chases", "sleeps", "sings", "waits"),
    "many": ("see", "like", "chase", "sleep", "sing", "wait"),
}
PREPOSITIONS = ("near", "behind", "with")
OTHER = {"one": "many", "many": "one"}
WORDS = [
    *("the", "that", *PREPOSITIONS),
    *(word for words in (NOUNS, VERBS) for w in words.values() for word in w),
]
# 0 is for what is not there.
NUMBER = {word: number for number, word in enumerate(WORDS, 1)}
LONGEST = 24


class Grammar:
    """Sentences in which a verb may stand far from its subject."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def sentence(self, right):
        """Words; if not `right`, one verb disagrees with its subject."""
        while True:
            number = self._number()
            words = [*self._noun(number, 2), self._verb(number)]
            if self.rng.random() < 0.5:
                words += self._noun(self._number(), 1)
            verbs = [i for i, (_, verb) in enumerate(words) if verb]
            if not right:
                at = self.rng.choice(verbs)
                words[at] = self._verb(OTHER[words[at][1]])
            if len(words) <= LONGEST:
                return [word for word, _ in words]

    def _number(self):
        return self.rng.choice(["one", "many"])

    def _verb(self, number):
        """A verb, and its number."""
        return str(self.rng.choice(VERBS[number])), str(number)

    def _noun(self, number, depth):
        """A noun with what is said of it: pairs of a word and ""."""
        noun = [("the", ""), (str(self.rng.choice(NOUNS[number])), "")]
        kind = self.rng.random() if depth else 1.0
        if kind < 0.4:
            preposition = str(self.rng.choice(PREPOSITIONS))
            other = self._noun(self._number(), depth - 1)
            return [*noun, (preposition, ""), *other]
        if kind < 0.8:
            subject = self._number()
            other = self._noun(subject, depth - 1)
            return [*noun, ("that", ""), *other, self._verb(subject)]
        return noun


def sentences(count, seed):
    """`(count, LONGEST)` numbers of words, and whether each is right."""
    grammar = Grammar(seed)
    y = np.random.default_rng(seed + 1).integers(0, 2, count)
    x = np.zeros((count, LONGEST), "int32")
    for row, right in zip(x, y, strict=True):
        words = grammar.sentence(bool(right))
        row[: len(words)] = [NUMBER[word] for word in words]
    return x, y


def words(count):
    """Sentences to train on and, others, to test with."""
    test = sentences(max(count // 4, 64), 10)
    return training.Data(*sentences(count, 0), *test)


@keras.saving.register_keras_serializable("transformer_tasks")
class Positions(layers.Layer):
    """Adds a learned vector to each position."""

    def build(self, shape):
        self.table = self.add_weight(
            shape=shape[1:], initializer="random_normal", name="table"
        )

    def call(self, x):
        return x + self.table


def block(x, heads, dim, hidden, mask=None):
    """Attention and two Dense layers, each after a normalization."""
    width = x.shape[-1]
    y = layers.LayerNormalization()(x)
    y = layers.MultiHeadAttention(heads, dim)(y, y, attention_mask=mask)
    x = layers.Add()([x, y])
    y = layers.LayerNormalization()(x)
    y = layers.Dense(hidden, activation="gelu")(y)
    return layers.Add()([x, layers.Dense(width)(y)])


def image_model(shape, depth=4, width=48, heads=4, patch=2):
    """A vision transformer that returns logits."""
    x = inputs = keras.Input(shape)
    x = layers.Conv2D(width, patch, patch)(x)
    x = layers.Reshape(((shape[0] // patch) * (shape[1] // patch), width))(x)
    x = Positions()(x)
    for _ in range(depth):
        x = block(x, heads, width // heads, 4 * width)
    x = layers.LayerNormalization()(x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def word_model(shape, depth=2, width=32, heads=4):
    """A classifier of sentences that returns two logits."""
    inputs = keras.Input(shape, dtype="int32")
    there = keras.ops.not_equal(inputs, 0)
    mask = keras.ops.expand_dims(there, 1)
    x = layers.Embedding(len(WORDS) + 1, width)(inputs)
    x = Positions()(x)
    for _ in range(depth):
        x = block(x, heads, width // heads, 4 * width, mask)
    # The mean of the words first: after a normalization, the channels that
    # gates close could not be told from the others by what reads a mask.
    x = layers.GlobalAveragePooling1D()(x, mask=there)
    x = layers.LayerNormalization()(x)
    return keras.Model(inputs, layers.Dense(2)(x))
