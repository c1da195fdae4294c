"""Where the scripts, the models and the page are: in the checkout, or in `continuo/scripts` of an installed package."""

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

_PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = (_PACKAGE / "scripts").is_dir()
HOME = _PACKAGE / "scripts" if INSTALLED else _PACKAGE.parent
MODELS, EXAMPLES, WEB = HOME / "models", HOME / "examples", HOME / "web" / "static"


def script(name: str) -> ModuleType:
    """A top-level module, such as `train` or `predictor`, wherever Continuo is.

    Raises:
        ModuleNotFoundError: there is no such file.
    """
    if str(HOME) not in sys.path:
        sys.path.insert(0, str(HOME))
    return importlib.import_module(name)


def child_environment() -> dict[str, str]:
    """Return the environment for a child process in which every module of Continuo can be imported."""
    known = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": f"{HOME}{os.pathsep}{known}" if known else str(HOME)}
