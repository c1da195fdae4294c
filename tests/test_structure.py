"""The house: imports run one way, scripts name no architecture, examples in docstrings are true."""

import ast
import doctest
import graphlib
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

ALLOWED = {
    "corpus": {"continuo"},
    "featurizer": {"continuo"},
    "model_definition": {"continuo"},
    "dataset": {"continuo", "corpus", "featurizer"},
    "predictor": {"continuo", "corpus", "featurizer", "model_definition"},
    "trainer": {"continuo", "corpus", "featurizer", "model_definition", "dataset"},
    "train": {"continuo", "predictor", "trainer"},
    "predict": {"continuo", "predictor"},
    "export": {"continuo", "predictor"},
    "excerpts": {"continuo", "corpus", "featurizer", "predictor"},
    "evaluation": {"continuo", "dataset", "excerpts", "predictor"},
    "songs_evaluation": {"continuo", "dataset", "evaluation", "excerpts", "predictor"},
    "evaluate": {"continuo", "evaluation", "songs_evaluation", "excerpts", "predictor"},
    "takes": {"continuo", "predictor"},
    "studio": {"continuo"},
}
SPINE = sorted(ALLOWED)
LEAVES = sorted(path.stem for path in (ROOT / "continuo").glob("*.py"))


def imported(path: Path) -> set[str]:
    """Top-level names of the project that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found & {"continuo", *SPINE}


@pytest.mark.parametrize("name", SPINE)
def test_imports_run_one_way(name):
    assert imported(ROOT / f"{name}.py") <= ALLOWED[name]


@pytest.mark.parametrize("name", LEAVES)
def test_leaves_know_nothing_of_the_pipeline(name):
    assert imported(ROOT / "continuo" / f"{name}.py") <= {"continuo"}


def test_leaves_import_each_other_in_no_circle():
    graph = {}
    for name in LEAVES:
        nodes = ast.walk(ast.parse((ROOT / "continuo" / f"{name}.py").read_text()))
        froms = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
        inside = {alias.name for node in froms if node.module == "continuo" for alias in node.names}
        inside |= {node.module.split(".")[1] for node in froms if node.module.startswith("continuo.")}
        graph[name] = inside & set(LEAVES)
    assert len([*graphlib.TopologicalSorter(graph).static_order()]) == len(LEAVES)


def test_every_top_level_file_has_its_place():
    assert {path.stem for path in ROOT.glob("*.py")} == set(SPINE)


@pytest.mark.parametrize(
    "name", ["train", "predict", "predictor", "trainer", "evaluate", "evaluation", "excerpts", "studio", "takes"]
)
def test_scripts_name_no_architecture_and_no_representation(name):
    text = (ROOT / f"{name}.py").read_text().lower()
    text = text.replace("codebook-lstm", "")  # the default preset's name may stand in a help text
    for word in ("lstm", "transformer", "mlp", "remi", "codebook", "spectral-", "chord"):
        assert word not in text


def test_the_required_packages_are_required():
    needed = {"torch", "torchaudio", "music21", "numpy", "regex", "scikit-learn"}
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert needed <= {line.split(">")[0].strip() for line in lines}


@pytest.mark.parametrize("name", LEAVES)
def test_examples_in_docstrings(name):
    module = importlib.import_module("continuo" if name == "__init__" else f"continuo.{name}")
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
