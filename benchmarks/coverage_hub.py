"""The sections of the coverage pages on what benchmarks/hub.py found."""

import collections
import re

import coverage_texts as texts
import coverage_zoo

CASES = ("inside", "width", "depth", "gates")
TITLE = "## KerasHub"
KINDS = ("heads", "hidden", "width")
read = coverage_zoo.read


def words(row):
    """A word for each case of a backbone."""
    if "unbuilt" in row or "crashed" in row:
        return [row.get("unbuilt") or row["crashed"]]
    return [f"{case}: {verdict(row, case)}" for case in CASES]


def verdict(row, case):
    """What became of a case: equal, wrong, nothing to close, or an error."""
    found = row[case]
    if "error" in found:
        return "hung" if found["error"].startswith("TooLong") else "refused"
    closed = found.get("closed", {"gates": [1, 1]})
    if "nothing" in found or not any(n for n, _ in closed.values()):
        return "nothing"
    limit = max(
        coverage_zoo.ROUNDING, coverage_zoo.FACTOR * row["conditioning"]
    )
    if not difference(found) <= limit or not row["untouched"]:
        return "wrong"
    return "equal"


def difference(found):
    """The larger of the two comparisons of a case."""
    return max(found.get("verify", 0.0), found.get("truth") or 0.0)


def compared(row):
    """The cases of a backbone in which two models were compared."""
    if "unbuilt" in row or "crashed" in row:
        return []
    return [c for c in CASES if verdict(row, c) in ("equal", "wrong")]


def section(results, backends, table, small):
    """The lines of the section; none before anything was run."""
    found = coverage_zoo.read_all(results, "hub", backends)
    if not found:
        return []
    intro = texts.HUB.format(
        rounding=coverage_zoo.ROUNDING, factor=coverage_zoo.FACTOR
    )
    lines = [TITLE, "", intro, "", _summary(found, backends, table), ""]
    first = next(iter(found.values()))
    lines += [
        _networks(first, found, table, small),
        "",
        *_rest(found, backends),
    ]
    lines += ["", "What prevents more, by the number of backbones:", ""]
    return [*lines, _bars(first, table), ""]


def section_in_short(results, backends, table):
    """The lines of the section of the summary."""
    found = coverage_zoo.read_all(results, "hub", backends)
    if not found:
        return []
    names = ", ".join(next(iter(found.values())))
    lines = [TITLE, "", texts.HUB_SHORT, "", _summary(found, backends, table)]
    return [*lines, "", f"Backbones: {names}.", ""]


def _summary(found, backends, table):
    head = ["", "backbones", "comparisons", "equal", "wrong", "a second truth"]
    head += ["largest difference", "date"]
    rows = []
    for backend, networks in found.items():
        cases = [(r, c) for r in networks.values() for c in compared(r)]
        counts = collections.Counter(verdict(r, c) for r, c in cases)
        second = sum(r[c].get("truth") is not None for r, c in cases)
        worst = max((difference(r[c]) for r, c in cases), default=0.0)
        built = [r for r in networks.values() if "unbuilt" not in r]
        dates = sorted({r["date"] for r in built if "date" in r})
        rows.append(
            [
                backends[backend],
                len(built),
                len(cases),
                counts["equal"],
                counts["wrong"],
                second,
                f"{worst:.0e}".replace("e-0", "e-"),
                " to ".join(dict.fromkeys([dates[0], dates[-1]])),
            ]
        )
    return table(head, rows)


def _networks(first, found, table, small):
    head = ["backbone", "parameters", *[f"{kind} gone" for kind in KINDS]]
    head += ["left", "left, width too", "blocks gone", "left, depth"]
    head += ["class", "difference", "probe"]
    rows = []
    for name, row in first.items():
        if "unbuilt" in row or "crashed" in row:
            continue
        every = [r[name] for r in found.values() if name in r]
        worst = [difference(r[c]) for r in every for c in compared(r)]
        rows.append(
            [
                name,
                f"{row['params']:,}",
                *[_gone(row, kind) for kind in KINDS],
                _left(row["inside"]),
                _left(row["width"]),
                _blocks(row["depth"]),
                _left(row["depth"]),
                _class(row),
                small(max(worst, default=0.0)),
                small(max(r.get("conditioning", 0.0) for r in every)),
            ]
        )
    return table(head, rows)


def _gone(row, kind):
    case = "width" if kind == "width" else "inside"
    closed, of = row[case].get("closed", {}).get(kind, (0, 0))
    return f"{closed} of {of}" if of else "-"


def _left(found):
    return f"{found['left']:.3f}" if "left" in found else "-"


def _blocks(found):
    for closed, of in found.get("closed", {}).values():
        return f"{closed} of {of}"
    return "-"


def _class(row):
    """Whether the backbone keeps its class, inside and in depth."""
    each = [row[case].get("class") for case in ("inside", "depth")]
    told = {True: "kept", False: "written out", None: "-"}
    return " / ".join(told[kept] for kept in each)


def _rest(found, backends):
    """Backbones that were not compared, and cases that were refused."""
    lines = {}
    for backend, networks in found.items():
        for name, row in networks.items():
            for why in _failures(row):
                lines.setdefault(f"{name}{why}", []).append(backends[backend])
    return [f"- {text} ({', '.join(on)})" for text, on in lines.items()]


def _failures(row):
    for key in ("unbuilt", "crashed"):
        if key in row:
            yield f" is not compared: {plain(row[key])[:160]}"
            return
    for case in CASES:
        if "error" in row[case]:
            yield f", {case}: {plain(row[case]['error'])[:300]}"
        if verdict(row, case) == "wrong":
            yield f", {case}: off by {difference(row[case]):.0e}"


def _bars(networks, table):
    met = collections.defaultdict(set)
    for name, row in networks.items():
        for key in ("opaque", "fixed"):
            for text in row.get(key, ()):
                met[plain(text)[:220]].add(name)
    rows = [
        [len(names), *text.split(": ", 1), ", ".join(sorted(names))]
        for text, names in sorted(met.items(), key=lambda x: -len(x[1]))
    ]
    return table(["number", "layer", "reason", "backbones"], rows)


def plain(text):
    """A message without what colors a terminal and breaks a table."""
    text = re.sub("\x1b\\[[0-9]*m", "", text)
    return text.replace("|", "\\|").replace("<", "&lt;")
