"""Where the scripts, the models and the page are: in the checkout, or in `continuo/scripts` of an installed package."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

_PACKAGE = Path(__file__).resolve().parent
INSTALLED = (_PACKAGE / "scripts").is_dir()
HOME = _PACKAGE / "scripts" if INSTALLED else _PACKAGE.parent
MODELS, EXAMPLES, WEB = HOME / "models", HOME / "examples", _PACKAGE / "web"


def script(name: str) -> ModuleType:
    """A top-level module, such as `train` or `predictor`, wherever Continuo is.

    Raises:
        ModuleNotFoundError: there is no such file.
    """
    if str(HOME) not in sys.path:
        sys.path.insert(0, str(HOME))
    return importlib.import_module(name)
