"""The names and arguments that users type: a change here is a change for them.

Add to the tables when a name is added. When one goes or is renamed, say in
CHANGELOG.md what to write in its place.
"""

import configparser
import importlib
import inspect
import pathlib
import re
import subprocess
import sys
import types

import keras
import pytest

import keras_gates as kg

ROOT = pathlib.Path(__file__).resolve().parents[1]

NAMES = {
    "": """
        BlockGate BranchGate Budget FilterGate GatedAttention GatedRecurrent
        HeadGate LayerGate Quantile ResConv StripConv binarize callbacks
        constraints find_thresholds functional fuse insert_gates interop
        regularizers separate_shortcuts slim stats surgeon thresholds to_dense
        to_resconv to_stripconv transforms zoo
    """,
    "callbacks": (
        "BindSoftThreshold ClosedGates GrowDecay LogGates ReachBudget"
    ),
    "constraints": "HardThreshold KeepSign SoftThreshold UnitInterval",
    "regularizers": ("CostL1 ExpectedCost GroupLasso L1 MeanL1 Polarization"),
    "interop": "from_tf_keras to_tf_keras",
    "search": "FoundThresholds Trial find_thresholds",
    "stats": """
        Comparison Count compare count draw_stripes plot_gates stripe_shares
    """,
    "surgeon": """
        Plan Repair Sensitivity Surgeon delete_channels delete_layer get_apoz
        high_apoz insert_layer plan prune prune_iteratively register repair
        replace_layer score sensitivity verify
    """,
    "thresholds": "Below Budget Factors Quantile ThresholdRule",
    "transforms": """
        AddedShortcut Convolutions GateSpec Structure added_shortcuts binarize
        drop_betas drop_shortcuts find_convolutions find_structure functional
        fuse insert_gates normalize_gammas separate_shortcuts
        simplify_selections slim to_dense to_resconv to_stripconv
    """,
    "zoo": (
        "densenet inception lenet5 mlp mobilenet plain_resnet preact_resnet "
        "resnet resnet18 resnet50 vgg16 vgg19"
    ),
}
# What a rule for a layer of your own is written with; there may be more.
RULES = "Composite register rule_of table"

# The order of arguments; those after * are given by name only.
ARGUMENTS = {
    "insert_gates": (
        "model filters layers branches blocks * heads mismatch start tied "
        "sizes written_out"
    ),
    "to_resconv": (
        "model strength * m_regularizer start include exclude **arguments"
    ),
    "to_stripconv": (
        "model strength * skeleton_regularizer skeleton_constraint include "
        "exclude"
    ),
    "to_dense": "model only_slower * include exclude",
    "slim": "model strength * gamma_initializer include exclude",
    "separate_shortcuts": "model",
    "functional": "model inputs * inference_only",
    "fuse": "model batch_norm",
    "binarize": "model thresholds **options",
    "find_thresholds": (
        "model evaluate * max_drop kinds metric trials keep_essential exact "
        "verbose"
    ),
    "Quantile": "q scope",
    "Budget": (
        "macs params latency keep_essential normalize batch_size sizes measure"
    ),
    "callbacks.GrowDecay": "thresholds scores **options",
    "callbacks.GrowDecay.start": "self model steps",
    "callbacks.GrowDecay.step": "self",
    "callbacks.LogGates": "to thresholds * every cost histograms",
    "callbacks.LogGates.start": "self model",
    "callbacks.LogGates.log": "self step logs",
    "callbacks.ReachBudget": "budgets * macs params backup_dir",
    "callbacks.ReachBudget.start": "self model steps",
    "callbacks.ReachBudget.step": "self",
    "regularizers.ExpectedCost": "strength of sizes",
    "regularizers.ExpectedCost.bind": "self model kinds",
    "regularizers.GroupLasso": "strength",
    "regularizers.GroupLasso.bind": "self model",
    "regularizers.Polarization": "strength t",
    "FilterGate": (
        "axis initializer regularizer activity_regularizer constraint "
        "stochastic seed **kwargs"
    ),
    "GatedAttention": (
        "layer initializer regularizer activity_regularizer constraint "
        "stochastic seed **kwargs"
    ),
    "GatedRecurrent": (
        "layer initializer regularizer activity_regularizer constraint "
        "stochastic seed gate_states name **kwargs"
    ),
    "LayerGate": (
        "initializer regularizer activity_regularizer constraint stochastic "
        "seed **kwargs"
    ),
    "transforms.GateSpec": (
        "* strength regularizer weigh initializer constraint stochastic "
        "include exclude pieces position inputs"
    ),
    "surgeon.plan": (
        "model thresholds * scores keep_at_least round_to exact "
        "drop_shortcuts written_out"
    ),
    "surgeon.prune": (
        "model thresholds * scores keep_at_least round_to exact "
        "drop_shortcuts written_out keep_optimizer repair"
    ),
    "surgeon.verify": "model pruned thresholds x * samples seed **options",
    "surgeon.score": (
        "model criterion data * of normalize ignore loss loss_weights "
        "batch_size exact seed"
    ),
    "surgeon.sensitivity": (
        "model scores data * metric loss shares batch_size exact verbose"
    ),
    "surgeon.Plan.report": "self path * repair metrics",
    "surgeon.Plan.plot": "self ax",
    "surgeon.prune_iteratively": (
        "model thresholds * criterion steps on_step keep_at_least repair "
        "**options"
    ),
    "surgeon.repair": ("target x * method max_samples batch_size seed verbose"),
    "surgeon.register": "layer_class rule",
    "stats.count": "model input_shape",
    "stats.plot_gates": "model thresholds * by",
    "stats.compare": "before after input_shape",
}


def found(path):
    """`surgeon.plan` of keras_gates; the package itself for ""."""
    here = kg
    for name in filter(None, path.split(".")):
        if isinstance(here, types.ModuleType) and not hasattr(here, name):
            importlib.import_module(f"{here.__name__}.{name}")
        here = getattr(here, name)
    return here


def public(module):
    """What is there under a name without _, imported modules left out."""
    names = getattr(module, "__all__", None)
    if names is not None:
        return set(names)
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and getattr(value, "__module__", None) == module.__name__
    }


@pytest.mark.parametrize("module", NAMES)
def test_public_names(module):
    assert public(found(module)) == set(NAMES[module].split())
    for name in NAMES[module].split():
        assert found(f"{module}.{name}") is not None


def test_rules_can_be_written_with_public_names():
    assert set(RULES.split()) <= public(found("surgeon.rules"))


@pytest.mark.parametrize("module", ["thresholds", "transforms", "surgeon"])
def test_nothing_but_modules_is_there_beside(module):
    there = vars(found(module))
    beside = {
        name
        for name, value in there.items()
        if not name.startswith("_")
        and name not in NAMES[module].split()
        and not isinstance(value, types.ModuleType)
    }
    assert beside - {"annotations", "NoReturn"} == set()


@pytest.mark.parametrize("name", NAMES["transforms"].split())
def test_no_module_hides_a_transform(name):
    assert callable(getattr(kg.transforms, name))
    if name in NAMES[""].split():
        assert getattr(kg, name) is getattr(kg.transforms, name)


def arguments(function):
    """The names of the arguments, as in `ARGUMENTS`."""
    parts = []
    for one in inspect.signature(function).parameters.values():
        if one.kind is one.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        stars = "**" if one.kind is one.VAR_KEYWORD else ""
        parts.append(stars + one.name)
    return " ".join(parts)


@pytest.mark.parametrize("path", ARGUMENTS)
def test_arguments(path):
    assert arguments(found(path)) == ARGUMENTS[path]


# What saved models name: to rename one is to make them unreadable.
SAVED = {
    "keras_gates>FilterGate": "FilterGate",
    "keras_gates>GatedAttention": "GatedAttention",
    "keras_gates>GatedRecurrent": "GatedRecurrent",
    "keras_gates>LayerGate": "LayerGate",
    "keras_gates>BranchGate": "BranchGate",
    "keras_gates>HeadGate": "HeadGate",
    "keras_gates>BlockGate": "BlockGate",
    "keras_gates>ResConv": "ResConv",
    "keras_gates>StripConv": "StripConv",
    "keras_gates>L1": "regularizers.L1",
    "keras_gates>MeanL1": "regularizers.MeanL1",
    "keras_gates>CostL1": "regularizers.CostL1",
    "keras_gates>ExpectedCost": "regularizers.ExpectedCost",
    "keras_gates>GroupLasso": "regularizers.GroupLasso",
    "keras_gates>Polarization": "regularizers.Polarization",
    "keras_gates>UnitInterval": "constraints.UnitInterval",
    "keras_gates>KeepSign": "constraints.KeepSign",
    "keras_gates>HardThreshold": "constraints.HardThreshold",
    "keras_gates>SoftThreshold": "constraints.SoftThreshold",
}


@pytest.mark.parametrize("name", SAVED)
def test_saved_models_find_their_classes(name):
    assert keras.saving.get_registered_object(name) is found(SAVED[name])


OLD = {
    "slim": (kg.slim, "gamma_init", "gamma_initializer"),
    "to_stripconv": (kg.to_stripconv, "layers", "include"),
    "prune_iteratively": (kg.surgeon.prune_iteratively, "scores", "criterion"),
    "Budget": (kg.Budget, "keep_at_least", "keep_essential"),
    "find_thresholds": (kg.find_thresholds, "keep_at_least", "keep_essential"),
}


@pytest.mark.parametrize("name", OLD)
def test_old_arguments_are_answered_with_the_new(name):
    function, old, new = OLD[name]
    with pytest.raises(TypeError, match=f"{name}.*`{old}`.*Pass `{new}`"):
        function(None, **{old: 1})


def test_old_names_are_answered_with_the_new():
    with pytest.raises(AttributeError, match="ThresholdRule"):
        kg.thresholds.Rule  # noqa: B018
    with pytest.raises(AttributeError, match="'resolver'"):
        kg.thresholds.resolver  # noqa: B018
    with pytest.raises(AttributeError, match="'zooo'"):
        kg.zooo  # noqa: B018


# What functions return; how to get one is in the example of the function.
RETURNED = """
    AddedShortcut Comparison Convolutions Count Factors FoundThresholds Plan
    Repair Sensitivity Structure Trial
""".split()
# Without arguments of their own, or with options that Keras checks.
NEVER_RAISES = """
    ThresholdRule UnitInterval inception lenet5 mlp mobilenet resnet18 resnet50
""".split()


@pytest.mark.parametrize("module", NAMES)
def test_docstrings_say_what_is_taken_and_raised_and_show_it(module):
    for name in NAMES[module].split():
        value = found(f"{module}.{name}")
        if isinstance(value, types.ModuleType):
            continue
        text = inspect.getdoc(value)
        sections = re.findall(r"^(\w[\w ]*):$", text, re.MULTILINE)
        if name in RETURNED:
            assert "Attributes" in sections, name
            continue
        takes = {*inspect.signature(value).parameters} - {"kwargs"}
        assert "Args" in sections or not takes, name
        assert "Raises" in sections or name in NEVER_RAISES, name
        assert re.search(r"^ *>>> ", text, re.MULTILINE) or (
            module == "interop" and "```python" in text
        ), name


LATER = (
    "callbacks graphs.graph interop reaching search stats surgeon transforms"
)
IN_A_PROCESS_OF_ITS_OWN = f"""
import sys

import keras

before = set(sys.modules)
import keras_gates as kg

more = set(sys.modules) - before
assert {{name.partition(".")[0] for name in more}} == {{"keras_gates"}}, more
for name in {[*LATER.split(), "zoo"]!r}:
    assert "keras_gates." + name not in more, name
for name in {[*SAVED]!r}:
    assert keras.saving.get_registered_object(name) is not None, name

assert set(kg.__all__) <= set(dir(kg))
assert kg.zoo.mlp and kg.stats.count and kg.search.Trial
assert kg.insert_gates is kg.transforms.insert_gates
from keras_gates import *

assert surgeon.plan and callbacks.ClosedGates and find_thresholds
"""


def test_most_is_imported_when_it_is_asked_for():
    """A program that loads a model with gates waits for little else."""
    command = [sys.executable, "-c", IN_A_PROCESS_OF_ITS_OWN]
    subprocess.run(command, check=True)


def test_the_version_is_one():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert config["metadata"]["version"] == kg.__version__
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert f"## [{kg.__version__}]" in changes


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in PAGES
}


@pytest.mark.parametrize("page", TEXTS)
def test_pages_speak_of_names_that_are_there(page):
    for path in set(re.findall(r"\bkg\.([A-Za-z_][\w.]*\w)", TEXTS[page])):
        assert found(path) is not None
        assert path.split(".")[0] in kg.__all__
    imported = re.findall(
        r"^from keras_gates\.?(\S*) import (\w+)", TEXTS[page], re.MULTILINE
    )
    for module, name in imported:
        here = found(f"{module}.{name}")
        is_module = isinstance(here, types.ModuleType)
        assert is_module or name in public(found(module))


def test_the_top_names_are_what_the_pages_speak_of():
    every = "\n".join(TEXTS.values())
    silent = [
        name for name in kg.__all__ if not re.search(rf"\b{name}\b", every)
    ]
    assert silent == []
