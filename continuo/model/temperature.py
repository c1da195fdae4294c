"""Draw classes from logits."""

from typing import Self

import torch
from pydantic import Field, ValidationError

from continuo.model.metadata import SamplingSection, Temperature, in_words


class Sampling(SamplingSection):
    """The settings of sampling: those of the metadata, which temper single levels, and these for all levels."""

    temperature: Temperature = 1.0  # multiplies those of the levels; 1 is natural, 0 takes the likeliest class
    top_p: float = Field(1.0, gt=0, le=1)  # below 1 unlikely classes, onsets among them, are never drawn

    def but(self, **values: float | None) -> Self:
        """Return these settings with the values that are not None changed; ValueError for one outside its range."""
        given = {name: value for name, value in values.items() if value is not None}
        try:
            return type(self).model_validate(self.model_dump() | given)
        except ValidationError as error:
            raise ValueError(in_words(error)) from None

    def level_temperature(self, level: int) -> float:
        """Return the factor of `temperature` for a level of a stream whose levels refine the first one."""
        return self.fine_temperature if level else self.coarse_temperature


def draw(logits: torch.Tensor, generator: torch.Generator | None, temperature: float, top_p: float) -> torch.Tensor:
    """Draw one class per row by the Gumbel-max method: the largest logit + Gumbel noise is a sample of the softmax.

    Args:
        logits: `(..., V)` at any scale; the classes are `(...)` int64.
        generator: on the logits' device; None draws from torch's own.
        temperature: at least 0; 0 takes the likeliest class.
        top_p: in (0, 1]; below 1 only the likeliest classes that together reach this probability can be drawn.
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
