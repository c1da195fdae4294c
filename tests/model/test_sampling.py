"""Classes drawn from logits: the softmax, the nucleus, and what is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from continuo.model.sampling import Sampling, draw


def test_temperature_zero_takes_the_likeliest_whatever_the_seed():
    logits = torch.randn(5, 10, 20, generator=torch.Generator().manual_seed(0))
    for seed in range(3):
        assert torch.equal(draw(logits, torch.Generator().manual_seed(seed), 0.0, 1.0), logits.argmax(-1))


@settings(max_examples=30, deadline=None)
@given(st.floats(0.2, 3.0), st.floats(0.05, 1.0), st.integers(0, 1000))
def test_draws_stay_inside_the_nucleus(temperature, top_p, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(11, generator=generator)
    drawn = draw(logits.expand(500, -1), generator, temperature, top_p)
    probabilities, order = (logits / temperature).softmax(-1).sort(descending=True)
    nucleus = order[: int((probabilities.cumsum(-1) - probabilities < top_p).sum())]
    assert set(drawn.tolist()) <= set(nucleus.tolist())


@pytest.mark.parametrize(
    ("top_p", "drawable"), [(0.4, 1), (0.5, 1), (0.6, 2), (0.75, 2), (0.8, 3), (0.875, 3), (0.9, 4)]
)
def test_the_nucleus_is_the_fewest_classes_that_reach_top_p_row_by_row(top_p, drawable):
    """Probabilities 1/2, 1/4, 1/8, 1/8 less a little, in two orders."""
    falling = torch.tensor([0.5, 0.25, 0.125, 0.125]).log() - torch.tensor([0, 0, 0, 1e-4])
    orders = torch.tensor([[2, 0, 3, 1], [0, 3, 1, 2]])  # where the likeliest stands, the next one, ...
    logits = torch.empty(2, 4).scatter(-1, orders, falling.expand(2, -1))
    drawn = draw(logits.expand(3000, 2, 4), torch.Generator().manual_seed(0), 1.0, top_p)
    for row, order in enumerate(orders.tolist()):
        assert set(drawn[:, row].tolist()) == set(order[:drawable])


def test_draws_follow_the_softmax():
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0])
    drawn = draw(logits.expand(40_000, -1), torch.Generator().manual_seed(0), 0.8, 1.0)
    counted = torch.bincount(drawn, minlength=4) / len(drawn)
    assert (counted - (logits / 0.8).softmax(-1)).abs().max() < 0.01


def test_the_same_seed_draws_the_same_and_logits_may_be_of_half_precision():
    logits = torch.randn(200, 50, generator=torch.Generator().manual_seed(1)).bfloat16()
    a, b, c = (draw(logits, torch.Generator().manual_seed(seed), 1.0, 0.9) for seed in (3, 3, 4))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(a, draw(logits.float(), torch.Generator().manual_seed(3), 1.0, 0.9))
    assert a.dtype == torch.int64


def test_levels_have_temperatures_of_their_own():
    how = Sampling(coarse_temperature=1.25, fine_temperature=0.5)
    assert [how.of_level(level) for level in range(3)] == [1.25, 0.5, 0.5]


@pytest.mark.parametrize("name", ["temperature", "coarse_temperature", "fine_temperature"])
def test_temperatures_are_at_least_0_and_finite(name):
    for bad in (-0.01, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=rf"^{name} {bad} must be at least 0 \(1 is natural\)$"):
            Sampling(**{name: bad})
    for good in (0.0, 1e9):
        assert getattr(Sampling(**{name: good}), name) == good
    with pytest.raises(ValueError, match=rf"^{name} 1e\+39 must be at most 1e\+09 \(1 is natural\)$"):
        Sampling(**{name: 1e39})


def test_top_p_is_above_0_and_at_most_1():
    for bad in (0.0, -1.0, 1.001, float("nan")):
        with pytest.raises(ValueError, match=rf"^top_p {bad} must be above 0 and at most 1 \(1 leaves"):
            Sampling(top_p=bad)
    assert Sampling(top_p=1e-9).top_p == 1e-9
