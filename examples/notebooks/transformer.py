# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A transformer
#
# In a transformer, three kinds of things can get smaller: attention has
# heads, feed-forward parts have hidden units, and all blocks read and write
# a stream of channels. In this notebook you see what scores would close of
# these, and then train gates to a budget.
#
# To run it yourself, install the package from a checkout:
#
# ```shell
# pip install '.[examples]' notebook
# ```

# %%
import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_gates as kg

keras.utils.set_random_seed(0)

# %% [markdown]
# ## A small vision transformer
#
# The images are scikit-learn's handwritten digits: 16 patches of 2x2 pixels
# each. `Positions` is a layer of your own: pruning needs no rule for it, since
# its `call` is read like any other part of the network.

# %%
images, labels = load_digits(return_X_y=True)
images = images.reshape(-1, 8, 8, 1).astype("float32") / 16
x_train, x_test, y_train, y_test = train_test_split(
    images, labels, test_size=0.25, random_state=0, stratify=labels
)


@keras.saving.register_keras_serializable("notebook")
class Positions(layers.Layer):
    """Adds a learned vector to each position."""

    def build(self, shape):
        self.table = self.add_weight(shape=shape[1:], name="table")

    def call(self, x):
        return x + self.table


def block(x, i):
    y = layers.LayerNormalization(name=f"norm_{i}a")(x)
    y = layers.MultiHeadAttention(4, 8, name=f"attention_{i}")(y, y)
    x = layers.Add(name=f"add_{i}a")([x, y])
    y = layers.LayerNormalization(name=f"norm_{i}b")(x)
    y = layers.Dense(64, activation="gelu", name=f"hidden_{i}")(y)
    y = layers.Dense(32, name=f"out_{i}")(y)
    return layers.Add(name=f"add_{i}b")([x, y])


def transformer():
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(32, 2, strides=2, name="patches")(inputs)
    x = layers.Reshape((16, 32), name="tokens")(x)
    x = Positions(name="positions")(x)
    for i in range(2):
        x = block(x, i)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.GlobalAveragePooling1D(name="mean")(x)
    return keras.Model(inputs, layers.Dense(10, name="logits")(x), name="vit")


def fit(model, epochs, callbacks=()):
    steps = epochs * -(-len(x_train) // 64)
    schedule = keras.optimizers.schedules.CosineDecay(3e-3, steps)
    model.compile(
        keras.optimizers.AdamW(schedule),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(
        x_train,
        y_train,
        batch_size=64,
        epochs=epochs,
        callbacks=list(callbacks),
        verbose=0,
    )


def accuracy(model):
    answers = model.predict(x_test, verbose=0).argmax(-1)
    return float(np.mean(answers == y_test))


model = transformer()
fit(model, 15)
print(f"accuracy: {accuracy(model):.4f}")
print(f"multiply-adds: {kg.stats.count(model).macs:,}")

# %% [markdown]
# ## What can go
#
# `score` finds the groups: heads, hidden units, and the stream. `"taylor"`
# estimates from gradients what the loss would say if a channel were closed.

# %%
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
scores = kg.surgeon.score(
    model, "taylor", (x_train[:512], y_train[:512]), loss=loss
)
{name: values.shape for name, values in scores.items()}

# %% [markdown]
# ## Prune by scores
#
# With a budget, the channels with the smallest scores are closed until half of
# the multiply-adds are left. The plan names each layer that gets smaller.
# Where the stream gets narrower, normalizations are written out, because
# their statistics have to count the channels that went.

# %%
plan = kg.surgeon.plan(model, kg.Budget(macs=0.5), scores=scores)
print(plan)

# %% [markdown]
# `plan.apply()` would make this model. Without training or a
# [repair](trained_model.md) it would have lost much of its accuracy, so there
# is a better way if you can train.

# %% [markdown]
# ## Train to a budget
#
# `insert_gates` puts gates on heads and hidden units without changing what the
# model computes, and `ReachBudget` closes them while the model trains, until
# half of the multiply-adds are left. There is no strength and no threshold to
# tune.

# %%
gated = kg.insert_gates(model, heads=True, filters=True)
reach = kg.callbacks.ReachBudget(macs=0.5)
fit(gated, 12, [reach])

# %%
kg.stats.plot_gates(gated, reach.thresholds)

# %% [markdown]
# Closed gates are exactly 0 now, so the cut changes nothing:

# %%
plan = kg.surgeon.plan(gated, reach.thresholds)
small = plan.apply()
difference = plan.verify(small, x_test)
assert difference["logits"] < 1e-4
size = kg.stats.compare(model, small)
print(f"difference: {difference['logits']:.1e}")
print(f"accuracy: {accuracy(model):.4f} -> {accuracy(small):.4f}")
print(f"multiply-adds left: {1 - size.macs_removed:.1%}")

# %%
for i in range(2):
    print(
        f"block {i}:",
        f"{small.get_layer(f'attention_{i}').num_heads} of 4 heads,",
        f"{small.get_layer(f'hidden_{i}').units} of 64 hidden units",
    )

# %% [markdown]
# Layers of your own, models of KerasHub, and what keeps its class are on the
# page about [transformers](../howto/transformers.md).
