"""Accuracy right after pruning, and its time, compared with Torch-Pruning.

    KERAS_BACKEND=jax python benchmarks/peers.py train --network resnet20
    KERAS_BACKEND=torch python benchmarks/peers.py compare --network resnet20

`compare` needs `pip install --no-deps torch-pruning==1.6.1`; pass a folder from
`--target` as `--peers`. kerassurgeon 0.2.0, the third of these tools, fails on
the models of Keras 3.

The network is trained once, on the digits of scikit-learn with a penalty on its
gammas (Network Slimming), and a twin in torch is given the same weights. Both
sides then cut the same share of each layer's channels:

- gamma: those of the smallest gammas, inside the residual blocks. Theirs is
  `BNScaleImportance`. Both cut the same channels, but ours absorbs their
  remaining outputs, the betas, and theirs drops them. "closed" is the trained
  network with these gammas at 0, which is what an exact cut computes. Beyond
  the share of gammas that are 0 after training, this is another network.
- l2: all groups by the norms of their weights, theirs with
  `GroupMagnitudeImportance(p=2)`. Both cut exactly, each with its own scores.

There is no training afterwards. Times are medians of alternating runs, in
processor seconds; both score, group and cut, theirs in place, on a copy that is
made before.
"""

import argparse
import copy
import importlib
import pathlib
import statistics
import sys
import time

import keras
import numpy as np
from keras import layers

import keras_gates as kg
from keras_gates.graphs import graph as gr

NETWORKS = {
    "resnet20": lambda **o: kg.zoo.resnet(20, "projection", **o),
    # Bottlenecks, as in ResNet-50.
    "preact_resnet29": lambda **o: kg.zoo.preact_resnet(29, **o),
}
RATIOS = (0.25, 0.5, 0.75)


def main():
    args = arguments()
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / f"{args.network}.keras"
    {"train": train, "compare": compare}[args.stage](args, path)


def images():
    """1,797 digits of 8x8 that scikit-learn holds; a quarter is held out."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    x = digits.images[..., None].astype("float32") / 16
    return train_test_split(
        x,
        digits.target,
        test_size=0.25,
        random_state=0,
        stratify=digits.target,
    )


def train(args, path):
    keras.utils.set_random_seed(args.seed)
    model = NETWORKS[args.network](
        input_shape=(8, 8, 1), classifier_activation=None
    )
    model = kg.slim(
        model, args.penalty, gamma_initializer=keras.initializers.Constant(0.5)
    )
    x, _, y, _ = images()
    steps = args.epochs * (len(x) // 64)
    model.compile(
        keras.optimizers.SGD(
            keras.optimizers.schedules.CosineDecay(0.1, steps), momentum=0.9
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(x, y, batch_size=64, epochs=args.epochs, verbose=2)
    keras.Model(model.input, model.output).save(path)


# The twin --------------------------------------------------------------------


def twin_of(model):
    """A torch module that computes what a Keras model does."""
    import torch

    graph = gr.read(model)

    class Twin(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = torch.nn.ModuleDict()
            for call in graph.calls:
                part = counterpart(torch, call)
                if part is not None:
                    self.parts[call.path] = part

        def forward(self, x):
            values = {id(graph.inputs[0]): x}
            for call in graph.calls:
                own = [values[id(t)] for t in call.inputs]
                if call.path in self.parts:
                    y = self.parts[call.path](own[0])
                else:
                    y = function(torch, call, own)
                values[id(call.outputs[0])] = y
            return values[id(graph.outputs[0])]

    return Twin().eval()


def counterpart(torch, call):
    """A torch module with the weights of a layer; None for what has none."""
    layer, nn = call.op, torch.nn
    if not getattr(layer, "weights", None):
        return None
    weights = [torch.tensor(np.array(w)) for w in layer.get_weights()]
    if isinstance(layer, layers.Conv2D):
        kernel = weights[0].permute(3, 2, 0, 1)
        whole = layer.strides == (1, 1) and layer.kernel_size[0] % 2
        assert layer.padding == "valid" or whole
        padding = layer.kernel_size[0] // 2 if layer.padding == "same" else 0
        part = nn.Conv2d(
            *kernel.shape[1::-1],
            layer.kernel_size,
            layer.strides,
            padding,
            bias=layer.use_bias,
        )
        new = [kernel, *weights[1:]]
    elif isinstance(layer, layers.BatchNormalization):
        part = nn.BatchNorm2d(len(weights[0]), layer.epsilon)
        part.running_mean.copy_(weights[2])
        part.running_var.copy_(weights[3])
        new = weights[:2]
    else:
        part = nn.Linear(*weights[0].shape)
        new = [weights[0].T, weights[1]]
    with torch.no_grad():
        for parameter, value in zip(part.parameters(), new, strict=True):
            parameter.copy_(value)
    return part


def function(torch, call, own):
    """The outcome of a layer without weights."""
    layer, functional = call.op, torch.nn.functional
    if isinstance(layer, layers.Add):
        return own[0] + own[1]
    if isinstance(layer, layers.GlobalAveragePooling2D):
        return own[0].mean((2, 3))
    if isinstance(layer, layers.ZeroPadding2D):
        rows, columns = layer.padding
        return functional.pad(own[0], (*columns, *rows))
    if isinstance(layer, (layers.ReLU, layers.Activation)):
        return functional.relu(own[0])
    raise NotImplementedError(f"{call.path}: {type(layer).__name__}")


# Surgery ---------------------------------------------------------------------


def inside(model):
    """`{normalization: convolution in front}` that no shortcut ties."""
    found = {}
    for call in gr.read(model).calls:
        if not isinstance(call.op, layers.BatchNormalization):
            continue
        first, then = call.inputs[0].producer, call.outputs[0]
        while len(then.consumers) == 1 and not then.consumers[0].op.weights:
            then = then.consumers[0].outputs[0]
            if len(then.consumers[0].inputs) > 1:
                break
        alone = len(call.inputs[0].consumers) == 1
        read = then.consumers and isinstance(
            then.consumers[0].op, layers.Conv2D
        )
        if alone and read and isinstance(first.op, layers.Conv2D):
            found[call.path] = first.path
    return found


def ours(model, criterion, ratio):
    if criterion == "gamma":
        names = dict.fromkeys(inside(model), kg.Quantile(ratio))
        return kg.surgeon.prune(model, names)
    scores = kg.surgeon.score(model, "l2")
    rule = kg.Quantile(ratio, scope="gate")
    return kg.surgeon.prune(model, rule, scores=scores)


def theirs(args, model, twin, criterion, ratio):
    """Cuts `twin` in place."""
    import torch

    if args.peers and args.peers not in sys.path:
        sys.path.insert(0, args.peers)
    tp = importlib.import_module("torch_pruning")
    kept = {
        name
        for name, part in twin.parts.items()
        if isinstance(part, torch.nn.Linear)
    }
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    if criterion == "gamma":
        importance = tp.importance.BNScaleImportance()
        kinds = (torch.nn.Conv2d, torch.nn.Linear)
        free = set(inside(model).values())
        kept = {
            name
            for name, part in twin.parts.items()
            if isinstance(part, kinds) and name not in free
        }
    tp.pruner.BasePruner(
        twin,
        torch.zeros(1, *np.roll(model.input_shape[1:], 1)),
        importance=importance,
        pruning_ratio=ratio,
        ignored_layers=[twin.parts[name] for name in kept],
    ).step()
    return twin


def closed(model, ratio):
    """The model with its smallest gammas at 0, and as wide as before."""
    new = keras.models.clone_model(model)
    new.set_weights(model.get_weights())
    for name in inside(model):
        gamma = new.get_layer(name).gamma
        values = keras.ops.convert_to_numpy(gamma).copy()
        order = np.argsort(np.abs(values), kind="stable")
        values[order[: int(ratio * len(values))]] = 0.0
        gamma.assign(values)
    return new


# The comparison --------------------------------------------------------------


def compare(args, path):
    import torch

    torch.set_num_threads(1)
    model = keras.models.load_model(path, compile=False)
    twin = twin_of(model)
    _, x, _, y = images()
    first, turned = x[:64], torch.tensor(x[:64].transpose(0, 3, 1, 2))
    with torch.no_grad():
        far = twin(turned) - model(first, training=False)
    print(f"{args.network}: the twin's logits differ by", end=" ")
    print(f"{float(far.abs().max()):.1e}")
    print(f"trained: {accuracy(model, x, y):.2f} % of {len(x)} images")
    gammas = np.concatenate(
        [np.array(model.get_layer(n).get_weights()[0]) for n in inside(model)]
    )
    print(f"gammas inside the blocks: {np.mean(gammas == 0):.0%} are 0")
    print(
        "cut    share  parameters: ours theirs  accuracy %: ours theirs", end=""
    )
    print("  closed  seconds: ours theirs")
    for criterion in ("gamma", "l2"):
        for ratio in RATIOS:
            row(args, model, twin, criterion, ratio, (x, y))


def row(args, model, twin, criterion, ratio, data):
    times = [[], []]
    for _ in range(args.rounds):
        other = copy.deepcopy(twin)
        start = time.process_time()
        small = ours(model, criterion, ratio)
        middle = time.process_time()
        theirs(args, model, other, criterion, ratio)
        times[0].append(middle - start)
        times[1].append(time.process_time() - middle)
    sizes = [
        sum(int(np.prod(w.shape)) for w in small.trainable_weights),
        sum(p.numel() for p in other.parameters()),
    ]
    right = [accuracy(small, *data), accuracy(other, *data)]
    whole = "      "
    if criterion == "gamma":
        whole = f"{accuracy(closed(model, ratio), *data):6.2f}"
    seconds = [statistics.median(t) for t in times]
    print(
        f"{criterion:5} {ratio:6.2f} {sizes[0]:17,} {sizes[1]:7,} "
        f"{right[0]:17.2f} {right[1]:6.2f}  {whole} "
        f"{seconds[0]:14.2f} {seconds[1]:6.2f}",
        flush=True,
    )


def accuracy(model, x, y):
    """In per cent; of a Keras model, or of a twin."""
    import torch

    right = 0
    with torch.no_grad():
        for start in range(0, len(x), 250):
            part = x[start : start + 250]
            if isinstance(model, keras.Model):
                logits = model(part, training=False)
            else:
                logits = model(torch.tensor(part.transpose(0, 3, 1, 2)))
            found = logits.argmax(-1).cpu().numpy()
            right += int((found == y[start : start + 250]).sum())
    return 100 * right / len(x)


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("stage", choices=["train", "compare"])
    add("--network", choices=sorted(NETWORKS), default="resnet20")
    add("--penalty", type=float, default=3e-3, help="on gammas")
    add("--epochs", type=int, default=20)
    add("--rounds", type=int, default=5)
    add("--peers", help="a folder with torch_pruning")
    add("--output", type=pathlib.Path, default="build/peers")
    add("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
