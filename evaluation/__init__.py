"""Evaluate a model: metrics, novelty, baselines, diagnosis, plots and the report."""
