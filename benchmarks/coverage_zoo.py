"""The sections of the coverage pages on what benchmarks/zoo.py found."""

import collections
import json

import coverage_texts as texts

CASES = ("scores", "gates")
TITLE = "## Packages with layers of their own"
ROUNDING, FACTOR = 1e-5, 20
# A network that loses less than this hardly gets smaller.
ENOUGH = 0.2


def read(path):
    """`{name: row}`, the last line of each network."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines]
    return {row["name"]: row for row in rows}


def read_all(results, suite, backends):
    """`{backend: {name: row}}` of the backends that a suite was run on."""
    found = {b: read(results / f"{suite}-{b}.jsonl") for b in backends}
    return {b: rows for b, rows in found.items() if rows}


def verdict(row, case):
    """What became of a case, in a word."""
    if "unbuilt" in row:
        return "unbuilt"
    if "crashed" in row:
        return "hung" if "hung" in row["crashed"] else "crashed"
    found = row[case]
    if "error" in found:
        return "hung" if found["error"].startswith("TooLong") else "crashed"
    worst = max(found.get("verify", 0.0), found.get("truth", 0.0))
    limit = max(ROUNDING, FACTOR * row["conditioning"])
    if not worst <= limit or not row["untouched"]:
        return "wrong"
    return "equal" if found["left"] <= 1 - ENOUGH else "kept"


def difference(row):
    """The largest of all comparisons of a network."""
    keys = ("verify", "truth")
    return max(row[c].get(key, 0.0) for c in CASES for key in keys)


def section(results, backends, table, small):
    """The lines of the section; none before anything was run."""
    found = read_all(results, "zoo", backends)
    if not found:
        return []
    intro = texts.ZOO.format(rounding=ROUNDING, factor=FACTOR)
    lines = [TITLE, "", intro, ""]
    lines += [_summary(found, backends, table), ""]
    first = next(iter(found.values()))
    lines += [_networks(first, table, small), "", *_unbuilt(first), ""]
    lines += ["What prevents more, by the number of networks:", ""]
    return [*lines, _bars(first, table)]


def section_in_short(results, backends, table):
    """The lines of the section of the summary."""
    found = read_all(results, "zoo", backends)
    if not found:
        return []
    return [TITLE, "", texts.ZOO_SHORT, "", _summary(found, backends, table)]


def _summary(found, backends, table):
    head = ["", "networks", "comparisons", f"{ENOUGH:.0%} or more gone"]
    head += ["less gone", "wrong", "crashed", "hung"]
    rows = []
    for backend, networks in found.items():
        built = [r for r in networks.values() if "unbuilt" not in r]
        words = collections.Counter(
            verdict(row, case) for row in built for case in CASES
        )
        kinds = ("equal", "kept", "wrong", "crashed", "hung")
        counts = [words[kind] for kind in kinds]
        rows.append([backends[backend], len(built), sum(counts), *counts])
    return table(head, rows)


def _networks(networks, table, small):
    rows = []
    for name, row in networks.items():
        if "unbuilt" in row or "crashed" in row:
            continue
        left = [row[c].get("left") for c in CASES]
        shown = ["-" if share is None else f"{share:.3f}" for share in left]
        line = [name, f"{row['params']:,}", *shown, small(difference(row))]
        rows.append([*line, small(row["conditioning"])])
    head = ["network", "parameters", "scores", "gates", "difference", "probe"]
    return table(head, rows)


def _unbuilt(networks):
    lines = []
    for name, row in networks.items():
        for key in ("unbuilt", "crashed"):
            if key in row:
                lines.append(f"- {name} is not compared: {row[key][:160]}")
        for case in CASES:
            if "error" in row.get(case, {}):
                why = _plain(row[case]["error"])[:200]
                lines.append(f"- {name}, {case}: {why}")
    return lines


def _bars(networks, table):
    met = collections.defaultdict(set)
    for name, row in networks.items():
        for key in ("opaque", "fixed", "barriers"):
            for text in row.get(key, ()):
                if key != "barriers" or "can't be seen through" not in text:
                    met[_plain(text)[:220]].add(name)
    rows = [
        [len(names), *text.split(": ", 1)]
        for text, names in sorted(met.items(), key=lambda x: -len(x[1]))
    ]
    return table(["networks", "layer", "reason"], rows)


def _plain(text):
    """A message without what colors a terminal and breaks a table."""
    for mark in ("\x1b[1m", "\x1b[0m"):
        text = text.replace(mark, "")
    return text.replace("|", "\\|").replace("<", "&lt;")
