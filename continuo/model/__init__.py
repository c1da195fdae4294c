"""Describe a model: metadata, checkpoints, streams of steps, sampling, the model card."""
