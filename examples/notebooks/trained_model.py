# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A trained model, without training
#
# You have a trained model and some inputs, but no time to train, or no labels
# to train with. In this notebook you halve the multiply-adds of such a model
# in some seconds: scores rank its channels, a budget says how many may stay,
# and a repair fits the smaller model to what the original computes.
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
# ## Your model
#
# Here a small network for handwritten digits stands in for your model. It is
# trained as usual: it has no gates, and no penalty that makes it easy to
# prune.

# %%
images, labels = load_digits(return_X_y=True)
images = images.reshape(-1, 8, 8, 1).astype("float32") / 16
x_train, x_test, y_train, y_test = train_test_split(
    images, labels, test_size=0.25, random_state=0, stratify=labels
)


def convolution(filters):
    return [
        layers.Conv2D(filters, 3, padding="same", use_bias=False),
        layers.BatchNormalization(momentum=0.9),
        layers.ReLU(),
    ]


model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        *convolution(16),
        layers.MaxPooling2D(),
        *convolution(32),
        *convolution(32),
        layers.GlobalAveragePooling2D(),
        layers.Dense(10, activation="softmax", name="digits"),
    ],
    name="your_model",
)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
_ = model.fit(x_train, y_train, batch_size=32, epochs=12, verbose=0)


def accuracy(model):
    answers = model.predict(x_test, verbose=0).argmax(-1)
    return float(np.mean(answers == y_test))


print(f"accuracy on unseen images: {accuracy(model):.4f}")

# %% [markdown]
# ## Score the channels
#
# `score` finds the channels that can only go together and gives each such
# group of channels a score. `"l2"` uses the size of the weights and needs no
# data. Other criteria look at activations, gradients, or what a repair could
# make good.

# %%
scores = kg.surgeon.score(model, "l2")
{name: values.shape for name, values in scores.items()}

# %% [markdown]
# Which layers can lose channels, and how many? `sensitivity` closes a part of
# one group at a time and measures the accuracy.

# %%
found = kg.surgeon.sensitivity(model, scores, (x_test, y_test))
print(found)

# %%
_ = found.plot()

# %% [markdown]
# ## Plan for a budget
#
# A budget is counted on the pruned model: half of the multiply-adds are what
# is left in the end.

# %%
plan = kg.surgeon.plan(model, kg.Budget(macs=0.5), scores=scores)
print(plan)

# %%
_ = plan.plot()

# %% [markdown]
# ## Prune
#
# The pruned model computes exactly what the original computes with these
# channels at zero. That is what `verify` checks. But nobody trained the
# original to do without them, so the accuracy drops:

# %%
cut = plan.apply()
difference = plan.verify(cut, x_test)
assert difference["digits"] < 1e-4
print(f"difference: {difference['digits']:.1e}")
print(f"accuracy: {accuracy(model):.4f} -> {accuracy(cut):.4f}")

# %% [markdown]
# ## Repair
#
# `repair` gives the channels that stay the job of those that went. Layer by
# layer, it fits the kernels by least squares, so that the smaller model comes
# as near as it can to what the original computes. It needs some hundred
# inputs, no labels, and no training.

# %%
repaired = kg.surgeon.repair(plan, x_train[:512])
small = repaired.model
print(repaired)

# %%
print(f"original: {accuracy(model):.4f}")
print(f"pruned:   {accuracy(cut):.4f}")
print(f"repaired: {accuracy(small):.4f}")
assert accuracy(small) > accuracy(cut)

# %% [markdown]
# (`kg.surgeon.prune(model, kg.Budget(macs=0.5), scores=scores,
# repair=x_train[:512])` does all of this in one call.)
#
# ## Report
#
# One file to hand on says what went, what stayed, and why.

# %%
plan.report(
    "report.html",
    repair=repaired,
    metrics={"accuracy": (accuracy(model), accuracy(small))},
)
small.save("small.keras")

# %% [markdown]
# The saved model consists of stock Keras layers and loads where `keras_gates`
# is not installed. The [command line](../howto/command-line.md) does the same
# with saved models:
#
# ```shell
# keras-gates prune model.keras -o small.keras --macs 0.5 --scores l2 \
#     --data images.npz --repair --report report.html
# ```
