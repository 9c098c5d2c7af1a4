"""Writes docs/coverage.md and docs/coverage-log.md.

    python benchmarks/coverage_report.py

The first is a summary of what coverage.py, hub.py and zoo.py found, the second
has their tables. A section of a page without any results in benchmarks/results
stays as it is.
"""

import importlib.metadata
import json
import pathlib

import coverage_hub
import coverage_texts as texts
import coverage_zoo

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
RESULTS = ROOT / "benchmarks" / "results"
BACKENDS = {"torch": "torch", "tensorflow": "TensorFlow", "jax": "JAX"}
# As in tests/helpers.py: what float32 adds up to, and what a nudge of 1e-7 on
# the inputs shows that this network makes of rounding.
ROUNDING, PROBE_FACTOR = 1e-5, 20
# A network in which a nudge does more than this hides what pruning does, and
# so does one whose outputs vary less than this with the inputs.
TELLS = 1e-3
# More channels than this, in any layer, than `exact=False` keeps are explained.
FEW = 3
APPLICATIONS = "## keras.applications"
BEYOND = "## Other kinds of networks"


def read(suite):
    """`{backend: {network: row}}` of the backends that were run."""
    found = {}
    for backend in BACKENDS:
        path = RESULTS / f"coverage-{suite}-{backend}.json"
        if path.exists():
            found[backend] = json.loads(path.read_text())
    return found


def tells(case):
    varies = case["variation"] >= TELLS
    calm = case["conditioning"] <= TELLS or case["difference"] == 0
    return varies and calm


def explained(case):
    limit = max(ROUNDING, PROBE_FACTOR * case["conditioning"])
    return case["difference"] <= limit and case.get("planned", True)


def cases_of(row):
    """The cases of a network that were run and had something to close."""
    return {k: v for k, v in row.items() if isinstance(v, dict)}


def table(head, rows):
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def share(pair):
    before, after = pair
    return f"{after / before:.3f}" if before else "-"


def small(number):
    return "0" if number == 0 else f"{number:.0e}".replace("e-0", "e-")


def by_backend(found, name, case):
    """`{backend: case}` of a network, where it was run."""
    cases = {b: rows.get(name, {}).get(case) for b, rows in found.items()}
    return {backend: row for backend, row in cases.items() if row}


def summary(found):
    """One line for each backend: how many networks, how far off at worst."""
    head = ["", "networks", "comparisons", "equal", "not equal"]
    head += ["can't tell", "largest difference", "date"]
    rows = []
    for backend, networks in found.items():
        ran = [cases_of(row) for row in networks.values()]
        every = [case for row in ran for case in row.values()]
        cases = [case for case in every if tells(case)]
        bad = sum(not explained(case) for case in every)
        worst = max((case["difference"] for case in cases), default=0)
        dates = {row["date"] for row in networks.values() if "date" in row}
        rows.append(
            [
                BACKENDS[backend],
                sum("error" not in row for row in networks.values()),
                len(every),
                sum(map(explained, cases)),
                bad,
                sum(explained(case) for case in every if not tells(case)),
                small(worst),
                " to ".join(sorted({min(dates), max(dates)})) if dates else "",
            ]
        )
    return table(head, rows)


def errors(found):
    """Networks that were not compared on a backend, and why not."""
    lines = []
    for backend, networks in found.items():
        for name, row in networks.items():
            if "error" in row:
                why = row["error"].split(": ", 1)[1][:160]
                lines.append(f"- {name} on {BACKENDS[backend]}: {why}")
        rest = sorted(set(names_of(found)) - networks.keys())
        if rest:
            names = ", ".join(rest)
            lines.append(f"- Not run on {BACKENDS[backend]} yet: {names}.")
    none = [BACKENDS[backend] for backend in BACKENDS if backend not in found]
    lines += [f"- None was run on {backend} yet." for backend in none]
    return "\n".join(lines)


def names_of(found):
    return sorted({name for rows in found.values() for name in rows})


def case_table(found, case):
    extra = ["`exact=False`", "more channels"] if case == "before" else []
    if case == "identity":
        extra = ["same names", "same config"]
    head = ["network", "parameters", "MACs", *extra]
    head += [f"difference, {BACKENDS[b]}" for b in found]
    head += ["probe", *[f"s, {BACKENDS[b]}" for b in found]]
    rows = []
    for name in names_of(found):
        each = by_backend(found, name, case)
        if not each:
            continue
        first = next(iter(each.values()))
        line = [name, share(first["params"]), share(first["macs"])]
        line += _extra(case, first, each)
        line += [_of(each, b, lambda r: small(r["difference"])) for b in found]
        line.append(small(max(row["conditioning"] for row in each.values())))
        line += [_of(each, b, lambda r: f"{r['seconds']:.1f}") for b in found]
        rows.append(line)
    return table(head, rows)


def _of(each, backend, text):
    return text(each[backend]) if backend in each else ""


def _extra(case, first, each):
    if case == "before":
        other = first["approximate"]
        left = share([first["params"][0], other["params"]])
        return [left, other["surplus"]]
    if case == "identity":
        keys = ("same_names", "same_config")
        alike = [all(row[key] for row in each.values()) for key in keys]
        return ["yes" if same else "no" for same in alike]
    return []


def surplus(found):
    """Who keeps more than a few channels for exactness, and why."""
    rest = {}
    for name in names_of(found):
        for row in by_backend(found, name, "before").values():
            if row["approximate"]["surplus"] > FEW:
                rest[name] = row["approximate"]["layer"]
    lines = []
    for families, why in texts.SURPLUS:
        there = [n for n in rest if n.startswith(tuple(families.split(", ")))]
        if there:
            lines.append(f"- {', '.join(there)}: {why}.")
        rest = {n: layer for n, layer in rest.items() if n not in there}
    lines += [f"- {n}: unexplained, in `{at}`." for n, at in rest.items()]
    return "\n".join(lines)


def barriers(found):
    """Each barrier met, and in how many networks."""
    met = {}
    for rows in found.values():
        for name, row in rows.items():
            for case in cases_of(row).values():
                for barrier in case["barriers"]:
                    met.setdefault(barrier, set()).add(name)
    rows = [
        [*barrier.split(": ", 1), _shown(names)]
        for barrier, names in sorted(met.items())
    ]
    return table(["layer", "reason", "networks"], rows) if rows else "None."


def _shown(names):
    names = sorted(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def suite_table(found, cases):
    """Rows of a small suite: each case's share of the parameters."""
    head = ["network", *[f"parameters, {c}" for c in cases], "MACs"]
    head += [f"difference, {BACKENDS[b]}" for b in found] + ["probe"]
    rows = []
    for name in next(iter(found.values()), {}):
        first = next(rows[name] for rows in found.values() if name in rows)
        had = cases_of(first)
        line = [name]
        line += [share(had[c]["params"]) if c in had else "-" for c in cases]
        least = min(had.values(), key=lambda row: row["params"][1], default={})
        line.append(share(least["macs"]) if least else "-")
        for rows_ in found.values():
            every = cases_of(rows_.get(name, {})).values()
            worst = max((row["difference"] for row in every), default=None)
            line.append("" if worst is None else small(worst))
        line.append(small(max(row["conditioning"] for row in had.values())))
        rows.append(line)
    return table(head, rows)


def applications():
    """The page up to the other suites."""
    apps = read("applications")
    names = ["keras", "tensorflow", "jax", "torch", "keras-hub"]
    versions = ", ".join(f"{n} {_version(n)}" for n in names if _version(n))
    intro = (
        "What `prune` was tried on besides the test suite, and how far its "
        f"results are from the gated originals ({versions}; on a CPU)."
    )
    parts = [
        texts.INTRO.format(
            intro=intro, rounding=ROUNDING, factor=PROBE_FACTOR, tells=TELLS
        )
    ]
    parts += [summary(apps), "", errors(apps), ""]
    for case, title in texts.CASES.items():
        parts += [
            f"## {title}",
            "",
            *texts.NOTES[case],
            case_table(apps, case),
            "",
        ]
        if case == "before":
            parts += [texts.MORE.format(few=FEW), "", surplus(apps), ""]
    parts += ["## Barriers", "", texts.BARRIERS, "", barriers(apps), ""]
    return parts if apps else []


def applications_in_short():
    """The section of the summary on keras.applications."""
    apps = read("applications")
    if not apps:
        return []
    parts = [APPLICATIONS, "", texts.APPLICATIONS, summary(apps), ""]
    return [*parts, cases_in_short(apps), "", errors(apps), ""]


def cases_in_short(found):
    """A row for each case: what it leaves, from the least to the most."""
    head = ["what was closed", "networks", "parameters left", "MACs left"]
    head += ["largest difference"]
    rows = []
    for case, title in texts.CASES.items():
        each = [by_backend(found, name, case) for name in names_of(found)]
        firsts = [next(iter(cases.values())) for cases in each if cases]
        if not firsts:
            continue
        every = [row for cases in each for row in cases.values()]
        worst = max(row["difference"] for row in every if tells(row))
        left = [
            _range(row[key] for row in firsts) for key in ("params", "macs")
        ]
        rows.append([title, len(firsts), *left, small(worst)])
    return table(head, rows)


def _range(pairs):
    """From the least to the most of `(before, after)`."""
    shares = sorted(share(pair) for pair in pairs)
    return " to ".join(dict.fromkeys([shares[0], shares[-1]]))


def beyond():
    """The section on small networks of other kinds."""
    found = read("beyond")
    parts = [BEYOND, "", texts.BEYOND, "", summary(found), ""]
    parts += [suite_table(found, ["gates"]), "", barriers(found), ""]
    return parts if found else []


def beyond_in_short():
    """The section of the summary on small networks of other kinds."""
    found = read("beyond")
    text = texts.BEYOND_SHORT.format(names=", ".join(names_of(found)))
    return [BEYOND, "", text, "", summary(found), ""] if found else []


def log(page):
    """The page in full, with the sections that have results made again."""
    shared = RESULTS, BACKENDS, table, small
    made = {
        "": applications(),
        BEYOND: beyond(),
        coverage_hub.TITLE: coverage_hub.section(*shared),
        coverage_zoo.TITLE: coverage_zoo.section(*shared),
    }
    return _written(page, made)


def report(page):
    """The summary, with the sections that have results made again."""
    shared = RESULTS, BACKENDS, table
    made = {
        "": [texts.SUMMARY],
        APPLICATIONS: applications_in_short(),
        BEYOND: beyond_in_short(),
        coverage_hub.TITLE: coverage_hub.section_in_short(*shared),
        coverage_zoo.TITLE: coverage_zoo.section_in_short(*shared),
    }
    return _written(page, made)


def _written(page, made):
    old = _sections(page, [title for title in made if title])
    text = "\n\n".join(
        "\n".join(made[title]) if made[title] else old.get(title, "")
        for title in made
    )
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text.rstrip() + "\n"


def _sections(page, titles):
    """`{title: text}` of a page; the first has no title."""
    found, title = {"": []}, ""
    for line in page.splitlines():
        title = line if line in titles else title
        found.setdefault(title, []).append(line)
    return {title: "\n".join(lines) for title, lines in found.items()}


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    for name, write in {"coverage": report, "coverage-log": log}.items():
        path = DOCS / f"{name}.md"
        path.write_text(write(path.read_text("utf-8")), "utf-8")
