"""One-shot pruning compared with Torch-Pruning, as ratios within one run.

    KERAS_BACKEND=torch python benchmarks/surgery.py

It needs `pip install --no-deps torch-pruning==1.6.1 torchvision timm`; pass a
folder from `--target` as `--peers`.

Both sides score coupled channels by the L1 norm of their weights, group them,
and remove the lower half of each group: ours `score` and `prune` of the
network of keras.applications, theirs `BasePruner` with
`GroupMagnitudeImportance(p=1)` on its twin in torchvision, or in timm. Theirs
cuts in place, so it gets a copy made beforehand; ours returns a new model.

Finally, each side's model is compared with its original, with removed channels
at zero: ours by `verify`, theirs with zeros for the weights that Torch-Pruning
removed (`surgery_twins`). Torch-Pruning does not check this: a normalization in
its models has the statistics of the remaining channels.

A ratio is the median of ours / theirs over alternating runs, in processor
seconds, which excludes other processes.
"""

import argparse
import copy
import functools
import gc
import importlib.util
import os
import pathlib
import statistics
import sys
import time
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import surgery_twins
import torch

import keras_gates as kg

TWINS = {
    "ResNet50": "resnet50",
    "DenseNet121": "densenet121",
    "VGG16": "vgg16",
    "InceptionV3": "inception_v3",
    "MobileNetV2": "mobilenet_v2",
    "EfficientNetB0": "efficientnet_b0",
    "ConvNeXtTiny": "convnext_tiny",
    "ViT-B/16": "vit_base_patch16_224",
}
# Networks that keras.applications lacks. The twin is timm's: torchvision's
# ViT does not run any more once it is cut, since it remembers its width.
OTHERS = {"ViT-B/16": surgery_twins.vit_b16}
OPTIONS = {"inception_v3": {"init_weights": False, "aux_logits": False}}


def load_peers(folder):
    """Import the peers; torchvision as far as a torch without CUDA lets it.

    Its compiled operations load only beside the torch they were built for. No
    network here uses them, but torchvision describes two of them when
    imported, for which they have to exist.
    """
    if folder:
        sys.path.insert(0, folder)
    origin = importlib.util.find_spec("torchvision").origin
    compiled = sorted(pathlib.Path(origin).parent.glob("_C*.so"))
    try:
        for path in compiled:
            torch.ops.load_library(path)
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor a, Tensor b, float t) -> Tensor")
        # It is forgotten with the object.
        load_peers.library = library
    import timm
    import torch_pruning
    import torchvision

    return torch_pruning, torchvision, timm


def our_side(name):
    build = OTHERS.get(name)
    if build is None:
        build = functools.partial(
            getattr(keras.applications, name), weights=None
        )
    model = build()
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if getattr(layer, "gamma", None) is not None:
            layer.gamma.assign(rng.uniform(0.5, 1.5, layer.gamma.shape))
    before = model.count_params()

    def run():
        scores = kg.surgeon.score(model, "l1")
        middle = {name: np.median(values) for name, values in scores.items()}
        small = kg.surgeon.prune(model, middle, scores=scores)
        return small.count_params() / before

    def off():
        scores = kg.surgeon.score(model, "l1")
        middle = {name: np.median(values) for name, values in scores.items()}
        plan = kg.surgeon.plan(model, middle, scores=scores)
        return max(plan.verify(plan.apply(), samples=2).values())

    return lambda: run, off


def their_side(name, torch_pruning, torchvision, timm):
    twin = TWINS[name]
    if name in OTHERS:
        model = timm.create_model(twin, pretrained=False).eval()
    else:
        model = getattr(torchvision.models, twin)(
            weights=None, **OPTIONS.get(twin, {})
        ).eval()
    size = 299 if name == "InceptionV3" else 224
    x = torch.zeros(1, 3, size, size)
    before = sum(p.numel() for p in model.parameters())
    l1 = torch_pruning.importance.GroupMagnitudeImportance(p=1)

    def cut(own, importance):
        last = [m for m in own.modules() if isinstance(m, torch.nn.Linear)][-1]
        heads = surgery_twins.heads_of(own, timm)
        options = {
            "num_heads": heads,
            "head_pruning_ratio": 0.5,
            "prune_num_heads": True,
            "prune_head_dims": False,
        }
        pruner = torch_pruning.pruner.BasePruner(
            own,
            x.to(next(own.parameters()).dtype),
            importance=importance,
            pruning_ratio=0.5,
            ignored_layers=[last],
            **(options if heads else {}),
        )
        pruner.step()
        surgery_twins.tell_heads(own, pruner, timm)
        return own

    def prepare():
        own = copy.deepcopy(model)

        def run():
            cut(own, l1)
            return sum(p.numel() for p in own.parameters()) / before

        return run

    def off():
        surgery_twins.draw(model)
        recorded = surgery_twins.Recorded(l1)
        small = cut(copy.deepcopy(model), recorded)
        again = surgery_twins.Recorded(l1, recorded.values)
        kept = cut(surgery_twins.places(model), again)
        whole = surgery_twins.masked(model, kept)
        images = torch.randn(2, *x.shape[1:])
        with torch.no_grad():
            return surgery_twins.difference(whole(images), small(images))

    return prepare, off


def timed(prepare):
    run = prepare()
    gc.collect()
    start = time.process_time()
    left = run()
    return time.process_time() - start, left


def bench(name, rounds, peers):
    (ours, our_off), (theirs, their_off) = (
        our_side(name),
        their_side(name, *peers),
    )
    sides = ours, theirs
    ratios, times, left = [], [], None
    for done in range(rounds + 1):
        # Whichever comes first, a drift of the clock falls on both.
        order = sides if done % 2 else sides[::-1]
        found = {side: timed(side) for side in order}
        ours, theirs = (found[side] for side in sides)
        if done:
            times.append((ours[0], theirs[0]))
            ratios.append(ours[0] / theirs[0])
        left = ours[1], theirs[1]
        print(f"\r  round {done}/{rounds}", end="", file=sys.stderr)
    print("\r" + " " * 20 + "\r", end="", file=sys.stderr)
    # Medians; the differences are found last, and not timed.
    ours, theirs = (statistics.median(t) for t in zip(*times, strict=True))
    print(
        f"{name:<15} {ours:6.3f} s {theirs:6.3f} s "
        f"{statistics.median(ratios):6.2f} ({min(ratios):.2f} to "
        f"{max(ratios):.2f})   {left[0]:6.1%} {left[1]:6.1%}"
        f"   {our_off():.0e} {their_off():.0e}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peers", help="the folder they are installed in")
    parser.add_argument("--only", choices=TWINS, action="append")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    peers = load_peers(options.peers)
    print(
        f"keras {keras.__version__} on torch {torch.__version__}, "
        f"torch-pruning {peers[0].__version__}, "
        f"torchvision {peers[1].__version__}"
    )
    print(
        "network           ours    theirs   ratio (range)     parameters left"
        "   off by"
    )
    for name in options.only or TWINS:
        bench(name, options.rounds, peers)


if __name__ == "__main__":
    main()
