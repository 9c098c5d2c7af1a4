"""The time of a score, in forward passes of the model over the same images.

    KERAS_BACKEND=torch OMP_NUM_THREADS=1 python benchmarks/scores.py

ResNet50 at 224 pixels with random weights, on random images. Times are
processor seconds; the pass is `model(batch, training=False)`, and is timed
before and after the scores.
"""

import argparse
import time
import warnings

import keras
import numpy as np

import keras_gates as kg

BATCH = 32


def seconds(run):
    start = time.process_time()
    run()
    return time.process_time() - start


def forward(model, x):
    """The outputs of all images, batch by batch."""
    if keras.backend.backend() == "torch":
        import torch

        with torch.no_grad():
            return [model(x[i : i + BATCH]) for i in range(0, len(x), BATCH)]
    return model.predict(x, batch_size=BATCH, verbose=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("criteria", nargs="*", default=["mean", "apoz", "taylor", "obs"])
    add("--images", type=int, default=256)
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    model = keras.applications.ResNet50(weights=None)
    model.compile("sgd", "sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(options.images, 224, 224, 3)).astype("float32")
    y = rng.integers(0, 1000, options.images)
    forward(model, x[:BATCH])
    before, found = seconds(lambda: forward(model, x)), {}
    for criterion in options.criteria:
        data = (x, y) if criterion == "taylor" else x
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found[criterion] = seconds(
                lambda c=criterion, d=data: kg.surgeon.score(
                    model, c, d, batch_size=BATCH
                )
            )
    one = min(before, seconds(lambda: forward(model, x)))
    print(f"{options.images} images, a pass: {one:.1f} s")
    for criterion, time_of in found.items():
        print(f"{criterion:8} {time_of / one:5.2f} passes")


if __name__ == "__main__":
    main()
