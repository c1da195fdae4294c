"""How good a model is: metrics, novelty, baselines, diagnosis, plots and the report."""
