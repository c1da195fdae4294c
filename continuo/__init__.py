"""The library of Continuo, which imports nothing from the stages and commands above it.

`from continuo import Predictor` gives the class in `predictor.py`, and likewise `Trainer`, also where Continuo is
installed.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

__version__ = "0.2.0"
_OFFERED = {"Predictor": "predictor", "Trainer": "trainer"}

if find_spec("filelock") is None:  # the environment of `make env` is not activated
    missing = f"{sys.executable} lacks packages that Continuo needs: make env, then source .venv/bin/activate"
    started = getattr(sys.modules["__main__"], "__file__", None)
    if started and Path(started).resolve().parent == Path(__file__).resolve().parents[1]:  # a command of this checkout
        print(missing, file=sys.stderr)
        sys.exit(2)
    raise ImportError(missing)


def __getattr__(name: str) -> object:
    """Import a stage when one of its classes is asked for."""
    if name not in _OFFERED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from continuo.system.paths import script

    return getattr(script(_OFFERED[name]), name)
