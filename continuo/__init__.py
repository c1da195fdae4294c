"""Leaf code of Continuo: everything here knows nothing of the pipeline that the top-level files make."""

__version__ = "0.1.0"
