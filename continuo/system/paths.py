"""Where the commands, the presets and the page are: in a checkout, or in `continuo/scripts` of an installed package."""

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

_PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = (_PACKAGE / "scripts").is_dir()
HOME = _PACKAGE / "scripts" if INSTALLED else _PACKAGE.parent
MODELS, EXAMPLES, WEB = HOME / "models", HOME / "examples", HOME / "web" / "static"
COMMANDS = {
    "train": "train a model on a folder of music",
    "predict": "continue a score, a MIDI file or a recording",
    "evaluate": "measure a trained model and write a report",
    "corpus": "list the music that a training would read from a folder",
    "studio": "open everything as a page in the browser",
    "export": "write a model's step for ONNX Runtime",
}
"""The commands, each with its purpose in a few words."""


def program(name: str) -> str:
    """Return the name of a command in messages: "train.py", or "continuo train" where Continuo is installed."""
    if name not in COMMANDS:
        return name
    return f"continuo {name}" if INSTALLED else f"{name}.py"


def command(name: str) -> str:
    """Return what a user types to start a command: "python train.py", or "continuo train" where it is installed."""
    return program(name) if INSTALLED or name not in COMMANDS else f"python {name}.py"


def script(name: str) -> ModuleType:
    """Import a top-level module, such as `train` or `predictor`, from a checkout or an installed package."""
    if str(HOME) not in sys.path:
        sys.path.insert(0, str(HOME))
    return importlib.import_module(name)


def child_environment() -> dict[str, str]:
    """Return the environment for a child process in which every module of Continuo can be imported."""
    known = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": f"{HOME}{os.pathsep}{known}" if known else str(HOME)}
