"""Train the perceptron of `continuo.engine.network` to separate two half moons that no straight line separates.

    python examples/perceptron.py [--epochs 60] [--save moons.safetensors]

`continuo/engine/value.py` holds the derivatives, `continuo/engine/network.py` everything else.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from continuo.engine.network import MLP, AdamW, Trainer
from continuo.engine.value import Value


def moons(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw points `(count, 2)` and the moon, 0 or 1, to which each belongs, `(count, 1)`."""
    rng = np.random.default_rng(seed)
    moon = rng.integers(0, 2, count)
    angle = np.pi * (rng.random(count) + moon)
    points = np.stack([np.cos(angle) + moon, np.sin(angle) + 0.4 * moon], -1)
    return points + 0.1 * rng.standard_normal((count, 2)), moon[:, None]


def picture(model: MLP) -> str:
    """Return the predictions over the plane as text: # for one moon, . for the other, blank where both are likely."""
    grid = np.stack(np.meshgrid(np.linspace(-1.5, 2.5, 64), np.linspace(1.5, -1.2, 18)), -1)  # (18, 64, 2)
    probability = model.predict(grid)[..., 0]
    return "\n".join("".join("." if p < 0.1 else "#" if p > 0.9 else " " for p in row) for row in probability)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=60, help="passes through the training points (default: 60)")
    parser.add_argument("--save", type=Path, help="safetensors file to write the parameters to")
    arguments = parser.parse_args(argv)

    x = Value(3.0)
    (2 / x - x**2).backward()
    print(f"The slope of 2 / x - x^2 at 3 is {x.gradient:.4f}; by hand it is {-2 / 9 - 6:.4f}.\n")

    model = MLP((2, 16, 16, 1), task="sigmoid", activation="tanh", seed=0)
    trainer = Trainer(model, model.loss, AdamW(model.parameters(), 0.01), seed=0)
    history = trainer.fit(*moons(500, seed=1), epochs=arguments.epochs, batch_size=32)
    for epoch in range(0, len(history), 10):
        print(f"epoch {epoch + 1:3}: loss {history[epoch]:.4f}")
    print(f"after {len(history)} epochs, on unseen moons: {trainer.test(*moons(500, seed=2))}\n")
    print(picture(model))
    if arguments.save:
        model.save(arguments.save)
    return 0


if __name__ == "__main__":
    sys.exit(main())
