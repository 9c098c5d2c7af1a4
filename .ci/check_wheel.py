"""Checks an installed keras_gates against the package folder of a checkout.

Run as `python -I check_wheel.py CHECKOUT/keras_gates`, outside of the checkout,
in an environment that holds the wheel, what the wheel asks for, one backend,
and nothing else: a module that needs more than the wheel declares fails here.
So does the command line, and what needs an extra that is not there, unless it
names the extra.
"""

import importlib
import importlib.metadata
import pathlib
import subprocess
import sys
import tempfile

EXTRAS = """
    cli dev docs examples export jax report tensorboard tensorflow tfmot torch
"""
DATA = ["py.typed", "surgeon/README.md"]


def main(checkout):
    """Exits with a message unless the installed package is whole."""
    import keras_gates

    installed = pathlib.Path(keras_gates.__file__).parent
    if checkout.resolve() in [installed, *installed.parents]:
        sys.exit(f"Imported the checkout, not the wheel: {installed}")
    sources = sorted(
        path.relative_to(checkout) for path in checkout.rglob("*.py")
    )
    expected = [*sources, *map(pathlib.Path, DATA)]
    missing = [
        str(path) for path in expected if not (installed / path).exists()
    ]
    if missing:
        sys.exit(f"Not in the wheel: {', '.join(missing)}")
    for path in sources:
        parts = path.with_suffix("").parts
        name = ".".join(["keras_gates", *parts])
        importlib.import_module(name.removesuffix(".__init__"))
    print(f"The wheel holds and imports all {len(sources)} modules.")
    check_metadata()
    with tempfile.TemporaryDirectory() as folder:
        check_command_line(pathlib.Path(folder))
    print("Its command line works, and names the extras that it lacks.")


def check_metadata():
    """Exits with a message unless the metadata is whole."""
    found = importlib.metadata.metadata("keras_gates")
    extras = set(found.get_all("Provides-Extra"))
    if extras != set(EXTRAS.split()):
        sys.exit(f"The wheel has other extras: {sorted(extras)}")
    for name in ("Author", "License-File", "Keywords", "Summary"):
        if not found.get(name):
            sys.exit(f"The metadata has no {name}.")


def check_command_line(folder):
    """Exits with a message unless a model is pruned from a shell."""
    import keras

    import keras_gates as kg

    kg.zoo.mlp().save(folder / "model.keras")
    program = pathlib.Path(sys.executable).parent / "keras-gates"
    words = [program, "prune", "model.keras", "-o", "small.keras"]
    more = ["--macs", ".5", "--scores", "l2", "--report", "report.html"]
    subprocess.run([*words, *more], check=True, cwd=folder)
    small = keras.models.load_model(folder / "small.keras", compile=False)
    compared = kg.stats.compare(kg.zoo.mlp(), small)
    if not 0.5 <= compared.macs_removed < 0.55:
        sys.exit(f"The command line pruned otherwise: {compared}")
    for use, extra in {
        compared.plot: "report",
        lambda: kg.callbacks.LogGates(folder): "tensorboard",
    }.items():
        try:
            use()
        except ImportError as error:
            if f"keras_gates[{extra}]" not in str(error):
                sys.exit(f"Without the extra {extra}: {error}")
        else:
            sys.exit(f"This environment has the extra {extra}.")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).resolve())
