"""Checks an installed keras_gates against the package folder of a checkout.

Run as `python -I check_wheel.py CHECKOUT/keras_gates`, outside of the checkout,
in an environment that holds the wheel, what the wheel asks for, one backend,
and nothing else: a module that needs more than the wheel declares fails here.
"""

import importlib
import pathlib
import sys

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


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).resolve())
