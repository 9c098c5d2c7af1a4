"""Prune many random graphs and compare each with its truth.

    python benchmarks/fuzz.py --graphs 3000 --start 0

Failures are printed with their seed and made small by leaving out blocks.
Run it with a large `--start` for graphs that the test suite does not have.
"""

import argparse
import collections
import pathlib
import sys
import time
import traceback
import warnings

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import keras

from tests.surgeon import judge
from tests.surgeon import random_graphs

warnings.simplefilter("ignore")


def verdict_of(seed, skip=frozenset()):
    """The verdict on a seed; an unexpected exception is a failure too."""
    try:
        return judge.judge(seed, skip)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        kind = f"failed: {type(error).__name__} {error} ({where})"
        return judge.Verdict(seed, kind, set())


def smaller(seed):
    """The failing graph of a seed without the blocks that do not matter."""
    skip = random_graphs.shrink(lambda s: verdict_of(seed, s).failed, 5)
    return f"skip={sorted(skip)}: {verdict_of(seed, skip).kind}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graphs", type=int, default=3000)
    parser.add_argument("--start", type=int, default=0)
    options = parser.parse_args()
    verdicts, started = [], time.time()
    for done in range(options.graphs):
        verdict = verdict_of(options.start + done)
        verdicts.append(verdict)
        if verdict.failed:
            print(f"seed {verdict.seed} {verdict.kind}")
            print(f"  {smaller(verdict.seed)}", flush=True)
        if (done + 1) % 100 == 0:
            kinds, _ = judge.census(verdicts)
            rate = (done + 1) / (time.time() - started)
            print(f"{done + 1}: {dict(kinds)}, {rate:.1f}/s", flush=True)
    report(verdicts)
    sys.exit(any(v.failed for v in verdicts))


def report(verdicts):
    kinds, features = judge.census(verdicts)
    seeds = collections.defaultdict(list)
    for verdict in verdicts:
        for feature in verdict.features:
            seeds[feature].append(verdict.seed)
    print(f"\n{len(verdicts)} graphs on {keras.backend.backend()}")
    for kind, count in kinds.most_common():
        print(f"  {kind:24}{count:6}")
    print("\nrare path                  count  first seeds")
    for name in judge.RARE:
        first = ", ".join(map(str, seeds[name][:4]))
        print(f"  {name:24}{features[name]:6}  {first}")


if __name__ == "__main__":
    main()
