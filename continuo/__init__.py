"""Leaf code of Continuo: everything here knows nothing of the pipeline that the top-level files make.

`from continuo import Predictor` gives that of `predictor.py`, and so `Trainer`, also where Continuo is installed.
"""

import importlib.util
import sys
from typing import Any

__version__ = "0.1.0"
_OFFERED = {"Predictor": "predictor", "Trainer": "trainer"}

if importlib.util.find_spec("filelock") is None:  # as where the environment of `make env` is not activated
    print(
        f"{sys.executable} lacks packages that Continuo needs: make env, then source .venv/bin/activate",
        file=sys.stderr,
    )
    sys.exit(2)


def __getattr__(name: str) -> Any:
    """Read a module of the pipeline only where somebody asks for it."""
    if name not in _OFFERED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from continuo.system.paths import script

    return getattr(script(_OFFERED[name]), name)
