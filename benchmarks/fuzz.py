"""Prunes many random graphs and compares each with its truth.

    python benchmarks/fuzz.py --count 3000 --backend torch --jobs 16

The graphs are those of `tests/surgeon/wide_graphs.py`: custom layers, masks,
recurrent layers, attention, shared and nested parts, gates or scores,
transforms first. Each is drawn by a seed; verdicts are written to a file, one
per line, so that an interrupted run can be resumed. Failures are made smaller
and printed as scripts. The exit status is 1 if anything failed.

`--graphs narrow` draws the graphs of `random_graphs.py` instead: gates in
convolutional and dense networks.
"""

import argparse
import collections
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time
import warnings

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# How much longer than a graph's limit a process may say nothing.
PATIENCE = 3
QUIET = {
    "OMP_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--start", type=int, default=0, help="first seed")
    parser.add_argument(
        "--backend", default=os.environ.get("KERAS_BACKEND", "torch")
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument(
        "--seconds", type=int, default=60, help="time limit of a graph"
    )
    parser.add_argument("--graphs", choices=["wide", "narrow"], default="wide")
    parser.add_argument(
        "--out", type=pathlib.Path, help="file of verdicts, to go on from"
    )
    parser.add_argument(
        "--shrink", type=int, default=20, help="how many failures to shrink"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.out is None:
        name = f"fuzz-{options.graphs}-{options.backend}.jsonl"
        options.out = ROOT / "build" / name
    return options


# In a worker ------------------------------------------------------------------


def work(options):
    """Judge the seeds that come in; put out a line for each."""
    warnings.simplefilter("ignore")
    judge = _judge(options)
    for line in sys.stdin:
        seed = int(line)
        started = time.time()
        verdict = judge(seed)
        data = dataclasses.asdict(verdict)
        data["features"] = sorted(data["features"])
        data["kind"] = verdict.kind
        data["took"] = round(time.time() - started, 3)
        sys.stdout.write(f"{json.dumps(data)}\n")
        sys.stdout.flush()


def _judge(options):
    from tests.surgeon import wide_judge

    def wide(seed):
        try:
            return wide_judge.judge(seed, seconds=options.seconds)
        except Exception as error:
            return wide_judge.Verdict(
                seed,
                "broken",
                "test",
                f"{type(error).__name__}: {error}",
                where=wide_judge._place(error),
            )

    def narrow(seed):
        from tests.surgeon import judge

        try:
            with wide_judge.limited(options.seconds):
                verdict = judge.judge(seed)
        except wide_judge.TimedOutError:
            return wide_judge.Verdict(seed, "hung")
        except Exception as error:
            return wide_judge.Verdict(
                seed, "crashed", "", str(error), where=wide_judge._place(error)
            )
        outcome = "equal" if verdict.kind == "same" else verdict.kind
        outcome = "wrong" if verdict.failed else outcome
        detail = verdict.kind if verdict.failed else ""
        return wide_judge.Verdict(
            seed, outcome, "", detail, verdict.features | {"narrow"}
        )

    return wide if options.graphs == "wide" else narrow


# In the main process ----------------------------------------------------------


class Worker:
    """A process that judges one seed at a time."""

    def __init__(self, options):
        self.options = options
        self.seed = self.since = None
        self._start()

    def _start(self):
        command = [
            *(sys.executable, __file__, "--worker", "yes"),
            *("--backend", self.options.backend),
            *("--seconds", str(self.options.seconds)),
            *("--graphs", self.options.graphs),
        ]
        environment = {
            **os.environ,
            **QUIET,
            "KERAS_BACKEND": self.options.backend,
        }
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            bufsize=0,
        )
        os.set_blocking(self.process.stdout.fileno(), False)
        self.text = b""

    def give(self, seed):
        self.seed, self.since = seed, time.time()
        self.process.stdin.write(f"{seed}\n".encode())

    def take(self):
        """The verdict as a dict, None while there is none yet."""
        self.text += self.process.stdout.read() or b""
        if b"\n" in self.text:
            line, self.text = self.text.split(b"\n", 1)
            self.seed = None
            return json.loads(line)
        limit = PATIENCE * self.options.seconds + 60
        if self.process.poll() is not None:
            return self._lost("crashed", "the process ended")
        if time.time() - self.since > limit:
            return self._lost("hung", f"nothing for {limit} s")
        return None

    def _lost(self, outcome, detail):
        self.stop()
        seed, self.seed = self.seed, None
        self._start()
        return {
            "seed": seed,
            "outcome": outcome,
            "detail": detail,
            "kind": f"{outcome}: {detail}",
            "features": [],
            "warned": False,
            "removed": 0.0,
            "took": 0.0,
        }

    def stop(self):
        self.process.kill()
        self.process.wait()


def collected(options):
    """All verdicts, by seed; those of an earlier run are taken over."""
    wanted = range(options.start, options.start + options.count)
    verdicts = _read(options.out, wanted)
    todo = [seed for seed in wanted if seed not in verdicts][::-1]
    print(f"{len(verdicts)} verdicts in {options.out}, {len(todo)} to go")
    if not todo:
        return verdicts
    options.out.parent.mkdir(parents=True, exist_ok=True)
    workers = [Worker(options) for _ in range(min(options.jobs, len(todo)))]
    started, said, before = time.time(), time.time(), len(verdicts)
    try:
        with options.out.open("a") as file:
            while todo or any(w.seed is not None for w in workers):
                for worker in workers:
                    if worker.seed is None:
                        if todo:
                            worker.give(todo.pop())
                        continue
                    verdict = worker.take()
                    if verdict is None:
                        continue
                    verdicts[verdict["seed"]] = verdict
                    file.write(f"{json.dumps(verdict)}\n")
                    file.flush()
                    _tell(verdict)
                if time.time() - said > 20:
                    said = time.time()
                    rate = (len(verdicts) - before) / (said - started)
                    found = collections.Counter(
                        v["outcome"] for v in verdicts.values()
                    )
                    print(
                        f"{len(verdicts)}/{options.count} {dict(found)} "
                        f"{rate:.1f}/s",
                        flush=True,
                    )
                time.sleep(0.002)
    finally:
        for worker in workers:
            worker.stop()
    return verdicts


def _read(path, wanted):
    if not path.exists():
        return {}
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return {v["seed"]: v for v in found if v["seed"] in wanted}


def _tell(verdict):
    from tests.surgeon.wide_judge import FAILURES

    if verdict["outcome"] in (*FAILURES, "broken"):
        print(f"seed {verdict['seed']} {verdict['kind']}", flush=True)


# What is printed in the end ---------------------------------------------------


def report(options, verdicts):
    """Tables; whether all went well."""
    from tests.surgeon import wide_judge

    outcomes = collections.Counter(v["outcome"] for v in verdicts)
    print(f"\n{len(verdicts)} graphs on {options.backend}, from seed", end=" ")
    print(f"{options.start}\n\noutcome              graphs")
    for name in wide_judge.OUTCOMES:
        print(f"{name:20}{outcomes[name]:7}")
    warned = sum(v["warned"] for v in verdicts)
    print(f"{'warned on the way':20}{warned:7}")
    equal = [v for v in verdicts if v["outcome"] == "equal"]
    cut = [v["removed"] for v in equal if v["removed"] > 0.001]
    mean = sum(cut) / max(1, len(cut))
    print(f"{'equal and smaller':20}{len(cut):7}  by {mean:.0%} on average")
    _ingredients(verdicts, equal)
    refusals = collections.Counter(
        v["kind"] for v in verdicts if v["outcome"] == "refused"
    )
    print("\nrefusals")
    for kind, count in refusals.most_common(25):
        print(f"{count:6}  {kind}")
    failed = [
        v for v in verdicts if v["outcome"] in (*wide_judge.FAILURES, "broken")
    ]
    kinds = collections.defaultdict(list)
    for verdict in failed:
        kinds[verdict["kind"]].append(verdict)
    print(f"\n{len(failed)} failures of {len(kinds)} kinds")
    for kind, members in sorted(kinds.items(), key=lambda k: -len(k[1])):
        seeds = [v["seed"] for v in members]
        print(f"{len(members):6}  {kind}\n        seeds {seeds[:8]}")
    return kinds


def _ingredients(verdicts, equal):
    drawn = collections.Counter(f for v in verdicts for f in v["features"])
    well = collections.Counter(f for v in equal for f in v["features"])
    print("\ningredient                          drawn  of these equal")
    for name, count in drawn.most_common():
        print(f"{name:34}{count:7}{well[name]:9}")


SCRIPT = """
# {kind}
import os
os.environ.setdefault("KERAS_BACKEND", "{backend}")
import sys
sys.path.insert(0, "{root}")
from tests.surgeon import wide_judge
case, verdict = wide_judge.again({seed}, skip={skip}, simpler={names})
print(wide_judge.listing(case.model), case.request, verdict, sep="\\n")
"""


def shrink(options, kinds):
    """A small script for one failure of each kind."""
    os.environ["KERAS_BACKEND"] = options.backend
    os.environ.update(QUIET)
    from tests.surgeon import wide_judge

    warnings.simplefilter("ignore")
    shown = [m[0] for m in kinds.values() if m[0]["outcome"] != "broken"]
    for verdict in shown[: options.shrink]:
        seed, kind = verdict["seed"], verdict["kind"]
        skip, names = wide_judge.shrunk(seed, kind, options.seconds)
        script = SCRIPT.format(
            kind=kind,
            backend=options.backend,
            root=ROOT,
            seed=seed,
            skip=sorted(skip),
            names=names,
        )
        print(script, flush=True)


def main():
    options = arguments()
    if options.worker:
        work(options)
        return
    os.environ["KERAS_BACKEND"] = options.backend
    os.environ.update(QUIET)
    verdicts = collected(options)
    kinds = report(options, [verdicts[seed] for seed in sorted(verdicts)])
    if kinds and options.graphs == "wide":
        shrink(options, kinds)
    sys.exit(bool(kinds))


if __name__ == "__main__":
    main()
