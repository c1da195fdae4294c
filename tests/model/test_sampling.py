"""Sampling of classes from logits: the softmax, the nucleus, and values out of range."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from continuo.model.heads import draw
from continuo.model.metadata import Sampling


def test_draw_at_temperature_zero_takes_the_likeliest_for_every_seed():
    logits = torch.randn(5, 10, 20, generator=torch.Generator().manual_seed(0))
    for seed in range(3):
        assert torch.equal(draw(logits, torch.Generator().manual_seed(seed), 0.0, 1.0), logits.argmax(-1))


@settings(max_examples=30, deadline=None)
@given(st.floats(0.2, 3.0), st.floats(0.05, 1.0), st.integers(0, 1000))
def test_draw_stays_inside_the_nucleus(temperature, top_p, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(11, generator=generator)
    drawn = draw(logits.expand(500, -1), generator, temperature, top_p)
    probabilities, order = (logits / temperature).softmax(-1).sort(descending=True)
    nucleus = order[: int((probabilities.cumsum(-1) - probabilities < top_p).sum())]
    assert set(drawn.tolist()) <= set(nucleus.tolist())


@pytest.mark.parametrize(
    ("top_p", "drawable"), [(0.4, 1), (0.5, 1), (0.6, 2), (0.75, 2), (0.8, 3), (0.875, 3), (0.9, 4)]
)
def test_draw_nucleus_is_the_fewest_classes_that_reach_top_p_in_each_row(top_p, drawable):
    """Probabilities 1/2, 1/4, 1/8, 1/8 less a little, in two orders."""
    falling = torch.tensor([0.5, 0.25, 0.125, 0.125]).log() - torch.tensor([0, 0, 0, 1e-4])
    orders = torch.tensor([[2, 0, 3, 1], [0, 3, 1, 2]])  # where the likeliest stands, the next one, ...
    logits = torch.empty(2, 4).scatter(-1, orders, falling.expand(2, -1))
    drawn = draw(logits.expand(3000, 2, 4), torch.Generator().manual_seed(0), 1.0, top_p)
    for row, order in enumerate(orders.tolist()):
        assert set(drawn[:, row].tolist()) == set(order[:drawable])


def test_draw_follows_the_softmax():
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0])
    drawn = draw(logits.expand(40_000, -1), torch.Generator().manual_seed(0), 0.8, 1.0)
    counted = torch.bincount(drawn, minlength=4) / len(drawn)
    assert (counted - (logits / 0.8).softmax(-1)).abs().max() < 0.01


def test_draw_same_seed_and_half_precision_draw_the_same():
    logits = torch.randn(200, 50, generator=torch.Generator().manual_seed(1)).bfloat16()
    a, b, c = (draw(logits, torch.Generator().manual_seed(seed), 1.0, 0.9) for seed in (3, 3, 4))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(a, draw(logits.float(), torch.Generator().manual_seed(3), 1.0, 0.9))
    assert a.dtype == torch.int64


def test_level_temperature_differs_between_first_and_refining_levels():
    how = Sampling(coarse_temperature=1.25, fine_temperature=0.5)
    assert [how.level_temperature(level) for level in range(3)] == [1.25, 0.5, 0.5]


@pytest.mark.parametrize("name", ["temperature", "coarse_temperature", "fine_temperature"])
def test_but_temperature_outside_0_and_1e9_is_refused_in_one_line(name):
    for bad, problem in [(-0.01, "greater than or equal to 0"), (1e39, "less than or equal to 1000000000"),
                         (float("inf"), "a finite number"), (float("nan"), "a finite number")]:  # fmt: skip
        with pytest.raises(ValueError, match=rf"^{name} must be {problem}, not {re.escape(str(bad))}$"):
            Sampling().but(**{name: bad})
    for good in (0.0, 1e9):
        assert getattr(Sampling().but(**{name: good}), name) == good


def test_but_top_p_outside_0_and_1_is_refused_in_one_line():
    for bad in (0.0, -1.0, 1.001, float("nan")):
        with pytest.raises(ValueError, match=rf"^top_p must be .*, not {bad}$"):
            Sampling().but(top_p=bad)
    assert Sampling().but(top_p=1e-9).top_p == 1e-9


def test_but_keeps_values_where_none_is_given():
    sampling = Sampling(coarse_temperature=1.3)
    assert sampling.but(coarse_temperature=None, top_p=0.5) == Sampling(coarse_temperature=1.3, top_p=0.5)
