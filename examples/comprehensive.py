"""Comprehensive pruning: gates at any granularity, inserted by one call.

    python examples/comprehensive.py --model lenet5 --dataset mnist

trains a network with gates, finds their thresholds, prunes, verifies and
fine-tunes, as in Haider and Taj, "Comprehensive Online Network Pruning via
Learnable Scaling Factors", and prints the paper's row next to its own.
`--gates` takes any of the four kinds, or several: `--gates filter,layer`.

For comparison, it also trains the network without gates. `--control random`
prunes that one at random to the same number of multiply-adds, and fine-tunes it
for the same time.

Folding a gate scales the weights next to it by its factor. If gates became very
small, as those of inputs do, plain SGD at a usual rate ruins such weights in a
few steps; `--adam 1e-5` fine-tunes with Adam, whose steps do not grow with the
gradient.

Each stage is saved when it ends, and each training after every epoch: the same
command resumes an interrupted run.
"""

import json

import comprehensive_report as report
import numpy as np
from comprehensive_options import KINDS
from comprehensive_options import RECIPES
from comprehensive_options import arguments
from comprehensive_run import Run
from comprehensive_run import write
from keras.regularizers import L2
from quickstart import title

import keras_gates as kg
from keras_gates.transforms import GateSpec

# Between passes goes what is closed for good: L1 and the clip give zeros.
ZERO = 1e-3


def main(argv=None):
    """Train, find thresholds, prune, verify, fine-tune, compare."""
    args = arguments(argv, __doc__)
    run = Run(args)

    title(f"1. Train without gates: {len(run.data.train[0]):,} images")
    models = {"base": run.train("base", lambda: network(run), args.base_epochs)}

    title(f"2. Train with gates: {', '.join(args.gates)}")
    gated = models["gated"] = with_gates(run)

    title("3. Find thresholds")
    thresholds = chosen_thresholds(run, gated)

    title("4. Prune, and verify")
    models["pruned"] = pruned(run, gated, thresholds)

    title("5. Fine-tune: it is a plain Keras model now")
    tuned = fine_tuned(run, "fine-tuned", lambda: run.stage("pruned"))
    models["fine-tuned"] = tuned

    if args.control:
        title("6. The control: closed at random, for as many MACs")
        models["random"] = fine_tuned(
            run, "random", lambda: closed_at_random(run, tuned)
        )

    title("Results")
    rows = [report.measure(n, m, run.data.test) for n, m in models.items()]
    write(args.output / "result.json", json.dumps(rows, indent=1))
    report.show(rows, args)
    print(f"files: {args.output}")


def network(run):
    """The network as it is, without gates."""
    args = run.args
    return RECIPES[args.model].build(
        input_shape=run.data.test[0].shape[1:],
        l2=args.l2,
        # Else a gate's size could move into them for nothing.
        batch_norm={"gamma_regularizer": L2(args.l2)},
        classifier_activation=None,
    )


def insert(model, args, penalty=True, **options):
    """The network with gates of the kinds asked for."""
    specs = {}
    for kind in args.gates:
        strength = getattr(args, f"{kind}_strength")
        specs[KINDS[kind]] = GateSpec(
            strength=strength if penalty else None,
            weigh=args.weigh,
            inputs=args.input_gates and kind == "filter",
        )
    # The paper's shortcuts, to be trained with the network.
    options = {"start": "residual", "mismatch": args.mismatch, **options}
    return kg.insert_gates(model, **specs, **options)


def with_gates(run):
    """Train with gates; between passes goes what is at zero."""
    args, model = run.args, network(run)
    for number in range(1, args.passes + 1):
        last = number == args.passes
        model = run.train(
            "gated" if last else f"pass{number}",
            lambda model=model: insert(model, args),
            args.epochs // args.passes,
            callbacks=[kg.callbacks.ClosedGates(args.threshold or ZERO)],
        )
        if not last:
            plan = kg.surgeon.plan(model, ZERO, keep_at_least=0.05)
            print(repr(plan))
            model = plan.apply()
    return model


def chosen_thresholds(run, gated):
    """A number, a budget, or what a search on held-out images finds."""
    args = run.args
    if args.threshold is not None:
        return args.threshold
    if args.budget is not None:
        return kg.Budget(macs=args.budget)
    path = args.output / "thresholds.json"
    if not path.exists():
        found = kg.find_thresholds(
            gated,
            lambda model: report.accuracy(model, *run.data.held),
            max_drop=args.max_drop,
            verbose=1,
        )
        print(found)
        report.draw_curve(found, args.output / "thresholds.png")
        write(path, json.dumps(found))
    return json.loads(path.read_text())


def pruned(run, gated, thresholds):
    """The pruned model: as the gated one is, or finished as the authors do."""
    args = run.args
    if args.drop_shortcuts:
        source = gated
        gated = fine_tuned(
            run, "binarized", lambda: kg.binarize(source, thresholds)
        )
        thresholds = 0.5
    plan = kg.surgeon.plan(
        gated, thresholds, drop_shortcuts=args.drop_shortcuts
    )
    print(plan)
    small = run.stage("pruned", plan.apply)
    images = run.data.test[0][:500]
    found = kg.surgeon.verify(gated, small, plan, x=images)
    print(f"largest relative difference: {max(found.values()):.1e}")
    return small


def fine_tuned(run, name, make):
    """A model trained on: at a tenth of the rate, or with Adam."""
    args = run.args
    return run.train(
        name,
        make,
        args.fine_tune_epochs,
        args.adam or args.rate / 10,
        adam=args.adam is not None,
    )


def closed_at_random(run, target):
    """The network without gates, closed at random to the MACs of another."""
    gated = insert(run.stage("base"), run.args, penalty=False, start="same")
    rng = np.random.default_rng(run.args.seed)
    for layer in gated.layers:
        if hasattr(layer, "kind"):
            layer.factor.assign(rng.uniform(size=layer.factor.shape))
    budget = kg.Budget(macs=kg.stats.count(target).macs)
    return kg.surgeon.prune(kg.binarize(gated, budget), 0.5)


if __name__ == "__main__":
    main()
