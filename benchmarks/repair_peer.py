"""Torch-Pruning on the CIFAR-10 network of `benchmarks/repair.py`.

    pip install --no-deps --target PACKAGES torch-pruning==1.6.1
    KERAS_BACKEND=torch python benchmarks/repair_peer.py \
        --packages PACKAGES --data-dir DATA --folder FOLDER

The same weights in a network of PyTorch, cut over all layers to the same share
of the multiply-adds, by its group norms and by its Taylor scores (512 images
with labels, otherwise its defaults). It has no repair: its results are meant to
be trained.
"""

import argparse
import copy
import json
import pathlib
import sys

import keras
import numpy as np
import repair_networks
import torch
from torch import nn
from torch.nn import functional

BUDGETS = (0.7, 0.5, 0.3)


class Convolution(nn.Module):
    """A convolution with the zeros that Keras' 'same' puts around it."""

    def __init__(self, layer, norm):
        super().__init__()
        kernel = torch.tensor(_numpy(layer.kernel).transpose(3, 2, 0, 1))
        out, into, size, _ = kernel.shape
        self.conv = nn.Conv2d(into, out, size, layer.strides, bias=False)
        self.conv.weight.data = kernel.contiguous()
        self.norm = nn.BatchNorm2d(out, eps=norm.epsilon)
        self.norm.weight.data, self.norm.bias.data = (
            torch.tensor(_numpy(v)) for v in (norm.gamma, norm.beta)
        )
        self.norm.running_mean, self.norm.running_var = (
            torch.tensor(_numpy(v))
            for v in (norm.moving_mean, norm.moving_variance)
        )
        before = int(size > 1 and layer.strides[0] == 1)
        self.padding = (before, size // 2) * 2

    def forward(self, x):
        return self.norm(self.conv(functional.pad(x, self.padding)))


class Twin(nn.Module):
    """The network of `repair_networks.cifar_network`."""

    def __init__(self, model):
        super().__init__()
        layers = model.layers
        kinds = keras.layers.Conv2D, keras.layers.BatchNormalization
        self.first, *rest = (
            Convolution(*pair)
            for pair in zip(
                *(_made(layers, kind) for kind in kinds),
                strict=True,
            )
        )
        self.rest = nn.ModuleList(rest)
        last = layers[-1]
        self.last = nn.Linear(*last.kernel.shape)
        self.last.weight.data = torch.tensor(_numpy(last.kernel).T).contiguous()
        self.last.bias.data = torch.tensor(_numpy(last.bias))

    def forward(self, x):
        x = functional.max_pool2d(functional.relu(self.first(x)), 2)
        for number in range(0, len(self.rest), 3):
            one, two, short = self.rest[number : number + 3]
            y = two(functional.relu(one(x)))
            x = functional.relu(short(x) + y)
        return self.last(x.mean((2, 3)))


def _made(layers, kind):
    """The layers of a class in the order in which they were made."""
    found = [layer for layer in layers if isinstance(layer, kind)]
    return sorted(found, key=lambda layer: (len(layer.name), layer.name))


def _numpy(variable):
    return np.array(keras.ops.convert_to_numpy(variable))


def outputs(net, x):
    net.eval()
    with torch.no_grad():
        parts = np.array_split(x.transpose(0, 3, 1, 2), 8)
        found = [net(torch.tensor(part)).numpy() for part in parts]
    return np.concatenate(found)


def cut(tp, net, by, ratio, task):
    """A copy with this share of its channels cut, and its MACs."""
    net = copy.deepcopy(net)
    example = torch.zeros(1, 3, 32, 32)
    if by == "taylor":
        importance = tp.importance.GroupTaylorImportance()
        x, y = task.x.transpose(0, 3, 1, 2), task.y.astype("int64")
        functional.cross_entropy(
            net(torch.tensor(x)), torch.tensor(y)
        ).backward()
    else:
        importance = tp.importance.GroupMagnitudeImportance(p=2)
    tp.pruner.BasePruner(
        net,
        example,
        importance=importance,
        global_pruning=True,
        pruning_ratio=ratio,
        ignored_layers=[net.last],
    ).step()
    return net, tp.utils.count_ops_and_params(net, example)[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=pathlib.Path, required=True)
    parser.add_argument("--data-dir", type=pathlib.Path, required=True)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sys.path.append(str(options.packages))
    import torch_pruning as tp

    task = repair_networks.Cifar(options)
    net = Twin(task.model).eval()
    own = task.model.predict(task.test[:64], verbose=0)
    far = np.abs(own - outputs(net, task.test[:64])).max()
    print(f"twin: off by {far:.1e}", flush=True)
    _, whole = cut(tp, net, "l2", 0.0, task)
    for by in ("l2", "taylor"):
        for share in BUDGETS:
            low, high = 0.0, 1.0
            for _ in range(10):
                middle = (low + high) / 2
                _, macs = cut(tp, net, by, middle, task)
                low, high = (
                    (middle, high) if macs > share * whole else (low, middle)
                )
            small, macs = cut(tp, net, by, high, task)
            found = outputs(small, task.test).argmax(-1)
            row = {"criterion": by, "macs": share, "left": macs / whole}
            row["accuracy"] = float((found == task.truth).mean())
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
