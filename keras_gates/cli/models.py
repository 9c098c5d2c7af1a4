"""Reads Keras files in safe mode, with custom classes, and writes them."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import pathlib
import re
import sys
import types
import warnings
import zipfile
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras

from keras_gates import _checks
from keras_gates.cli.exits import Failure
from keras_gates.cli.exits import one_line

SUFFIXES = (".keras", ".h5", ".hdf5")
# The packages that Keras finds without help.
_KNOWN = ("keras", "builtins")


def load(
    path: pathlib.Path, imports: Sequence[str], compiled: bool = False
) -> keras.Model:
    """A model from its file.

    Args:
        path: the file.
        imports: modules with custom classes.
        compiled: whether its loss is needed.

    Raises:
        Failure: there is no such file, it is not a Keras file, or it needs
            something that is missing.
    """
    if path.is_dir():
        raise Failure(
            f"'{path}' is a folder. Expected: a .keras file, as "
            "model.save('model.keras') writes one; a SavedModel can't be "
            "pruned any more."
        )
    if not path.is_file():
        raise Failure(f"There is no file '{path}'.")
    objects = _imported(imports)
    config = _config(path)
    if config is not None:
        _check_classes(path, config, objects)
    try:
        with warnings.catch_warnings():
            # Keras warns about the optimizer's state, which is not needed.
            warnings.simplefilter("ignore")
            model = keras.models.load_model(
                path, custom_objects=objects, compile=compiled, safe_mode=True
            )
    except Exception as error:
        raise Failure(_unreadable(path, error)) from error
    if not isinstance(model, keras.Model):
        raise Failure(
            f"'{path}' holds a {type(model).__name__}, not a keras.Model."
        )
    return model


def _imported(names: Sequence[str]) -> dict[str, Any]:
    """The classes and functions of modules, by name.

    Raises:
        Failure: a module can't be imported.
    """
    found: dict[str, Any] = {}
    for name in names:
        try:
            module = _module(name)
        except Exception as error:
            raise Failure(
                f"--import {name}: {type(error).__name__}: {one_line(error)}. "
                "Name a module that Python finds from here, or a .py file."
            ) from error
        for key, value in vars(module).items():
            if inspect.isclass(value) or inspect.isfunction(value):
                found[key] = value
                # The name in a file of what was registered under a package.
                found[keras.saving.get_registered_name(value)] = value
    return found


def _module(name: str) -> types.ModuleType:
    if not name.endswith(".py"):
        # A console script does not search the current folder.
        if "" not in sys.path and str(pathlib.Path.cwd()) not in sys.path:
            sys.path.insert(0, str(pathlib.Path.cwd()))
        return importlib.import_module(name)
    path = pathlib.Path(name)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"'{name}' is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module


def _config(path: pathlib.Path) -> Any:
    """The config in a file; None if Keras has to read it.

    Raises:
        Failure: it is not a Keras file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("config.json"))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        if path.suffix.lower() in SUFFIXES[1:]:
            return None
        raise Failure(
            f"'{path}' is not a Keras file, or not a whole one. Expected: a "
            ".keras file, as model.save('model.keras') writes one."
        ) from error


def _check_classes(
    path: pathlib.Path, config: Any, objects: dict[str, Any]
) -> None:
    """Name all classes that a config needs and that are not imported.

    Raises:
        Failure: there are any, or the config holds code that safe mode refuses.
    """
    unknown = []
    for part in _parts(config):
        name, registered = part["class_name"], part.get("registered_name")
        if name == "__lambda__":
            raise Failure(
                f"'{path}' holds a Lambda, whose code is stored in the file "
                "and is not run. Write it as a layer class, pass its module "
                "to --import, and save the model again."
            )
        if name == "function":
            name = part["config"]
        module = part.get("module") or ""
        if module.split(".")[0] in _KNOWN or name in objects:
            continue
        if keras.saving.get_registered_object(registered or name, objects):
            continue
        unknown.append(str(name))
    if unknown:
        names = _checks.listed(list(dict.fromkeys(unknown)))
        raise Failure(
            f"'{path}' needs classes that are not imported: {names}. Name the "
            "module that has it: --import my_module, or --import my_file.py."
        )


def _parts(config: Any) -> Iterator[dict[str, Any]]:
    """All parts of a config that stand for objects."""
    if isinstance(config, dict):
        if isinstance(config.get("class_name"), str) and (
            "registered_name" in config or config["class_name"] == "__lambda__"
        ):
            yield config
        # A model is not compiled, so its optimizer and losses are ignored.
        parts: Any = (v for k, v in config.items() if k != "compile_config")
    elif isinstance(config, list):
        parts = config
    else:
        return
    for part in parts:
        yield from _parts(part)


def _unreadable(path: pathlib.Path, error: Exception) -> str:
    missing = re.search(r"Could not locate \w+ '([^']+)'", str(error))
    unknown = re.search(r"Unknown \w+: '([^']+)'", str(error))
    found = missing or unknown
    if found:
        return (
            f"'{path}' needs what Python does not know: {found[1]}. Name the "
            "module that has it: --import my_module, or --import my_file.py."
        )
    if path.name.endswith(".weights.h5"):
        return (
            f"'{path}' holds weights without a model. Expected: a .keras "
            "file, as model.save('model.keras') writes one."
        )
    words = str(error).strip().splitlines() or [type(error).__name__]
    return f"'{path}' can't be read: {one_line(words[0])}"
