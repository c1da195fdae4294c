"""The from-scratch engine: differentiable values, perceptrons, losses and optimizers in NumPy alone."""
