# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Tutorial
#
# In this tutorial you train a small convolutional network with gates, look at
# what the gates learned, and make the network physically smaller. It takes
# less than a minute on a CPU and downloads nothing.
#
# To run it yourself, install the package from a checkout:
#
# ```shell
# pip install '.[examples]' notebook
# ```

# %%
import pathlib

import keras
import numpy as np
from keras import layers
from keras.regularizers import L2
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_gates as kg

keras.utils.set_random_seed(0)

# %% [markdown]
# ## The data
#
# Scikit-learn comes with 1,797 handwritten digits of 8x8 pixels. A quarter of
# them is kept for testing.

# %%
images, labels = load_digits(return_X_y=True)
images = images.reshape(-1, 8, 8, 1).astype("float32") / 16
x_train, x_test, y_train, y_test = train_test_split(
    images, labels, test_size=0.25, random_state=0, stratify=labels
)
x_train.shape, x_test.shape

# %% [markdown]
# ## A model with gates
#
# A gate is a layer that multiplies each channel by a factor of its own. The
# factors start at 1, so at first a gate changes nothing. Three things make
# the training close the gates of channels that the network can do without:
#
# - `kg.regularizers.L1` pulls each factor toward 0;
# - `kg.constraints.UnitInterval` clips the factors to the range from 0 to 1,
#   so that a closed gate is exactly 0;
# - L2 on the kernels and on `gamma`, as strong as the L1, keeps the network
#   from undoing the penalty with larger weights.
#
# Put the gate after the activation. Between a convolution and its batch
# normalization it would have no effect, because the normalization divides the
# factor out again.


# %%
def block(filters):
    return [
        layers.Conv2D(filters, 3, padding="same", kernel_regularizer=L2(1e-2)),
        layers.BatchNormalization(momentum=0.9, gamma_regularizer=L2(1e-2)),
        layers.ReLU(),
        kg.FilterGate(
            regularizer=kg.regularizers.L1(1e-2),
            constraint=kg.constraints.UnitInterval(),
        ),
    ]


gated = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        *block(16),
        layers.MaxPooling2D(),
        *block(32),
        *block(64),
        layers.GlobalAveragePooling2D(),
        layers.Dense(10, name="logits"),
    ],
    name="digits",
)

# %% [markdown]
# ## Train
#
# This is ordinary Keras: the penalty of the gates is part of the loss.
# `ClosedGates` adds the share of closed gates to the history.


# %%
def fit(model, epochs, rate, callbacks=()):
    steps = epochs * -(-len(x_train) // 32)
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
    model.compile(
        keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model.fit(
        x_train,
        y_train,
        batch_size=32,
        epochs=epochs,
        callbacks=list(callbacks),
        verbose=0,
    ).history


history = fit(gated, 20, 0.1, [kg.callbacks.ClosedGates(0.05)])
for epoch in range(4, 20, 5):
    print(
        f"epoch {epoch + 1:2d}:",
        f"accuracy {history['accuracy'][epoch]:.3f},",
        f"{history['closed_gates'][epoch]:.0%} of the gates closed",
    )

# %% [markdown]
# ## Look at the gates
#
# Trained gates fall into two heaps: one at zero, and one far from it. A
# threshold belongs between the two. (`by="gate"` draws each gate alone.)

# %%
kg.stats.plot_gates(gated, 0.05)

# %% [markdown]
# The heaps are far apart, so the exact threshold does not matter here. Where
# there are no two heaps, or where you need a model of a given size, use a
# budget in place of a threshold.

# %% [markdown]
# ## Plan
#
# A plan says what pruning would remove, what it would keep, and why. It reads
# the model and changes nothing.

# %%
plan = kg.surgeon.plan(gated, thresholds=0.05)
print(plan)

# %%
_ = plan.plot()

# %% [markdown]
# ## Prune, and verify
#
# `apply` builds the smaller model; `gated` stays as it is. (`kg.surgeon.prune`
# does both steps in one call.)

# %%
small = plan.apply()
[type(layer).__name__ for layer in small.layers]

# %% [markdown]
# The gates are gone: open gates were multiplied into the weights next to them.
# What is left consists of stock Keras layers.
#
# `verify` runs the gated model, with its closed gates set to 0, and the
# pruned model on the same inputs. The result is the largest difference,
# relative to the largest output.

# %%
difference = plan.verify(small, x_test)
assert difference["logits"] < 1e-4
difference


# %% [markdown]
# The difference is float rounding. The accuracy stays what it was. (An image
# or two may change sides if some closed gates are near 0 and not at 0; a note
# of the plan counts them.)


# %%
def accuracy(model):
    answers = model.predict(x_test, verbose=0).argmax(-1)
    return float(np.mean(answers == y_test))


for name, model in [("gated", gated), ("pruned", small)]:
    size = kg.stats.count(model)
    print(
        f"{name:6} accuracy {accuracy(model):.4f},",
        f"{size.params:,} parameters, {size.macs:,} multiply-adds",
    )

# %% [markdown]
# ## Continue training
#
# The pruned model is a plain Keras model, so you can fine-tune it. Without
# the penalty it often gains a little; nothing has to be repaired first.

# %%
fit(small, 5, 0.01)
print(f"fine-tuned: {accuracy(small):.4f}")

# %% [markdown]
# ## Save and export
#
# The saved model loads where `keras_gates` is not installed.

# %%
gated.save("gated.keras")
small.save("small.keras")
for name in ("gated.keras", "small.keras"):
    print(f"{name}: {pathlib.Path(name).stat().st_size:,} bytes")

again = keras.models.load_model("small.keras")
assert accuracy(again) == accuracy(small)

# %% [markdown]
# Everything that Keras can export works, too. On the TensorFlow backend:
#
# ```py
# small.export("served_model")  # SavedModel; also on JAX
# small.export("small.onnx", format="onnx")
# small.export("small.tflite", format="litert")
# ```
