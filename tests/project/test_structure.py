"""Test the structure: the order of imports, scripts that name no architecture, examples in docstrings."""

import ast
import doctest
import graphlib
import importlib
import json
import subprocess
import sys

import pytest
from conftest import ROOT

ORDER = [
    "continuo.system",
    "continuo.audio",
    "continuo.codec",
    "continuo.engine",
    "continuo.model",
    "continuo.midi",
    "continuo.score",
    "continuo.symbolic",
    "continuo",
    "corpus",
    "featurizer",
    "dataset",
    "model_definition",
    "generation",
    "preparation",
    "trainer",
    "predictor",
    "takes",
    "evaluation",
    "web",
    "train",
    "predict",
    "evaluate",
    "studio",
    "export",
]
"""Folders and files from the lowest to the highest: each imports from its own folder and from what stands before it."""
FILES = sorted(
    [
        *ROOT.glob("*.py"),
        *(path for folder in ("continuo", "evaluation", "web") for path in (ROOT / folder).rglob("*.py")),
    ]
)
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}


def imported(name: str) -> set[str]:
    """Return the modules of the project that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {other if other in MODULES else node.module for other in inside}
    return found & MODULES.keys() - {name, "continuo"}  # continuo/__init__.py imports only on demand


def place(name: str) -> int:
    """Return the place of a module in `ORDER`."""
    return ORDER.index(name if name in ORDER else name.rpartition(".")[0])


@pytest.mark.parametrize("name", MODULES)
def test_module_imports_nothing_above_it(name):
    assert [other for other in imported(name) if place(other) > place(name)] == []


def test_modules_import_each_other_in_no_circle():
    order = graphlib.TopologicalSorter({name: imported(name) for name in MODULES}).static_order()
    assert sorted(order) == sorted(MODULES)


def test_every_file_has_a_place_in_the_order():
    assert {name for name in ORDER if name not in MODULES} == set()
    assert {name for name in MODULES if name not in ORDER and name.rpartition(".")[0] not in ORDER} == set()


def test_no_folder_is_a_crowd():
    for folder in {path.parent for path in FILES}:
        assert len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) <= 14


@pytest.mark.parametrize(
    "name",
    [
        "train",
        "predict",
        "predictor",
        "preparation",
        "trainer",
        "evaluate",
        "evaluation.base",
        "evaluation.sound",
        "evaluation.excerpts",
        "studio",
        "web.server",
        "web.models",
        "web.take_worker",
    ],
)
def test_scripts_name_no_architecture_and_no_representation(name):
    text = MODULES[name].read_text().lower()
    text = text.replace("codec-lstm", "")  # the default preset's name may stand in a help text
    for word in ("lstm", "transformer", "mlp", "remi", "codebook", "spectral-", "chord"):
        assert word not in text


def test_requirements_name_the_required_packages():
    needed = {"torch", "torchaudio", "music21", "numpy", "regex", "scikit-learn"}
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert needed <= {line.split(">")[0].strip() for line in lines}


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_docstring_examples_are_true(name):
    module = importlib.import_module(name)
    assert doctest.testmod(module, extraglobs={"np": importlib.import_module("numpy")}).failed == 0


@pytest.mark.parametrize("script", ["train", "predict", "corpus", "evaluate", "studio", "export"])
def test_help_has_examples_and_needs_no_torch(script):
    code = f"import sys, runpy; sys.argv = ['{script}.py', '--help']\n"
    code += f"try: runpy.run_path('{script}.py', run_name='__main__')\nexcept SystemExit as e: assert not e.code\n"
    code += "assert 'torch' not in sys.modules, 'torch was imported'"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_presets_name_known_files():
    for path in (ROOT / "models").glob("*.json"):
        assert json.loads(path.read_text())["state"] == f"{path.stem}.safetensors"
