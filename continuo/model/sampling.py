"""Drawing classes from logits."""

from dataclasses import dataclass, replace

import torch

HOTTEST = 1e9  # two of them multiplied stay numbers in float32, and every class is as likely as any other


@dataclass(frozen=True)
class Sampling:
    """How steps are drawn.

    Attributes:
        temperature: 0 ... 1e9, as the two that follow; 1 is natural, 0 takes the likeliest.
        coarse_temperature: times `temperature` for the first level of a refined stream: a little above 1
            it makes as many onsets as music has.
        fine_temperature: times `temperature` for the levels that refine the first: below 1 they are less
            noisy than the model makes them.
        top_p: above 0, at most 1; below 1 unlikely choices, onsets among them, are never made.

    Raises:
        ValueError: a value outside its range.
    """

    temperature: float = 1.0
    coarse_temperature: float = 1.08
    fine_temperature: float = 0.7
    top_p: float = 1.0

    def __post_init__(self) -> None:
        for name in ("temperature", "coarse_temperature", "fine_temperature"):
            if HOTTEST < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} {getattr(self, name):g} must be at most {HOTTEST:g} (1 is natural)")
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} {getattr(self, name)} must be at least 0 (1 is natural)")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p} must be above 0 and at most 1 (1 leaves the choice free)")

    def but(self, **values: float | None) -> "Sampling":
        """This one, but for the values that are given and not None."""
        return replace(self, **{name: value for name, value in values.items() if value is not None})

    def of_level(self, level: int) -> float:
        """What `temperature` is multiplied by, for a level of a refined stream."""
        return self.fine_temperature if level else self.coarse_temperature


def draw(logits: torch.Tensor, generator: torch.Generator | None, temperature: float, top_p: float) -> torch.Tensor:
    """One class per row, by the Gumbel-max method: the largest of logit + Gumbel noise is a sample of the softmax.

    Args:
        logits: any scale.
        generator: on the logits' device.
        temperature: at least 0; 0 takes the likeliest class.
        top_p: in (0, 1]; below 1 only the likeliest classes that together reach this probability can be drawn.

    Shape: `(..., V)` to `(...)` int64.
    """
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.float() / temperature
    if top_p < 1:
        probabilities, order = logits.softmax(-1).sort(-1, descending=True)
        unlikely = probabilities.cumsum(-1) - probabilities >= top_p  # the first class always stays
        logits = logits.masked_fill(unlikely.scatter(-1, order, unlikely), -torch.inf)
    noise = torch.empty_like(logits).exponential_(generator=generator)
    return (logits - noise.log()).argmax(-1)
