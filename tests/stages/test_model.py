"""The contract of models: step = forward, the future never changes the past, the head is a distribution."""

import math
from itertools import pairwise

import pytest
import torch
from conftest import ROOT
from small_models import KINDS, SECTIONS, model_of, stream

from continuo.model import checkpoint
from continuo.model.heads import ChangeDecoder
from continuo.model.metadata import Sampling
from model_definition import MODELS, LevelHead
from predictor import Predictor


@pytest.mark.parametrize("backbone", SECTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_A04_model_forward_equals_its_steps(kind, backbone):
    model = model_of(kind, backbone=backbone)
    x = stream(model.spec, 9)
    whole, end = model(x, model.initial_state(2))
    state = model.initial_state(2)
    for t in range(9):
        context, state = model.step(x[:, t], state)
        torch.testing.assert_close(context, whole[:, t], atol=1e-5, rtol=1e-4)
    for ours, theirs in zip(state, end, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    first, middle = model(x[:, :4], model.initial_state(2))
    torch.testing.assert_close(torch.cat([first, model(x[:, 4:], middle)[0]], 1), whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("backbone", SECTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_C04_model_changed_future_leaves_the_past_the_same(kind, backbone):
    model = model_of(kind, backbone=backbone)
    x = stream(model.spec, 8)
    changed = x.clone()
    changed[:, 5:] = stream(model.spec, 11)[:, 8:11]
    a, b = model(x, model.initial_state(2))[0], model(changed, model.initial_state(2))[0]
    assert torch.equal(a[:, :5], b[:, :5])
    assert not torch.equal(a[:, 5:], b[:, 5:])


@pytest.mark.parametrize("backbone", SECTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_model_rows_are_independent_and_reset_alone(kind, backbone):
    model = model_of(kind, backbone=backbone)
    x = stream(model.spec, 6)
    _, state = model(x, model.initial_state(2))
    state = model.reset(state, torch.tensor([False, True]))
    after = model(x, state)[0]
    fresh = model(x, model.initial_state(2))[0]
    torch.testing.assert_close(after[1], fresh[1])
    assert not torch.allclose(after[0], fresh[0])


def test_level_head_probabilities_of_all_steps_sum_to_one():
    """The probabilities of all 9 * 4 steps sum to one, also where levels have different vocabularies."""
    model = model_of("learned")
    x = stream(model.spec, 3, batch=1)
    steps = torch.cartesian_prod(torch.arange(9), torch.arange(4))
    context, _ = model(x, model.initial_state(1))
    last = context[:, -1:].expand(len(steps), -1, -1)
    nats = model.head.nll(last, steps[:, None]).sum(-1)
    assert nats.neg().exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_C03_set_head_probabilities_sum_to_one_and_only_ascending_sets_are_drawn():
    """The probabilities of all ascending sets of at most three codes sum to one; all others have none."""
    model = model_of("sets")
    ranks = model.spec.ranks
    every = torch.cartesian_prod(*[torch.arange(6)] * 3)
    legal = []
    for codes in every.tolist():
        drawn = codes[: codes.index(0)] if 0 in codes else codes
        ascending = all(ranks[a] < ranks[b] for a, b in pairwise(drawn))
        legal.append(ascending and not any(codes[len(drawn) :]))
    legal = torch.tensor(legal)
    context, _ = model(stream(model.spec, 3, batch=1), model.initial_state(1))
    last = context[:, -1:].expand(len(every), -1, -1)
    assert legal.sum() == 1 + 5 + 9 + 7  # of five codes, two of which share a rank
    nats = model.head.nll(last[legal], every[legal][:, None]).sum(-1)
    assert nats.neg().exp().sum().item() == pytest.approx(1, abs=1e-5)
    drawn = model.sample(last[0].expand(20_000, -1), generator=torch.Generator().manual_seed(0))
    found = {tuple(row) for row in drawn.tolist()}
    assert found <= {tuple(row) for row in every[legal].tolist()}
    share = (drawn == torch.tensor([1, 4, 5])).all(-1).float().mean().item()
    place = [row.tolist() for row in every[legal]].index([1, 4, 5])
    assert share == pytest.approx(nats[place].neg().exp().item(), abs=0.01)


def test_D03_transformer_depends_on_its_context_only():
    model = model_of("learned", backbone="transformer")
    one = model_of("learned", backbone="transformer")
    one.backbone.blocks = one.backbone.blocks[:1]  # with one layer, steps outside the context cannot enter otherwise
    x = stream(model.spec, 12, batch=1)
    changed = x.clone()
    changed[:, 6] = (changed[:, 6] + 1) % torch.tensor([9, 4])
    a, b = (one(steps, one.initial_state(1))[0][0] for steps in (x, changed))
    assert not torch.allclose(a[10], b[10])  # context 5: steps 6 to 10
    torch.testing.assert_close(a[11], b[11])


def test_D03_transformer_positions_are_relative():
    """Steps long before the context do not change the output, however late the same last steps come."""
    model = model_of("learned", backbone="transformer")
    x = stream(model.spec, 40, batch=1)
    far = torch.cat([stream(model.spec, 60, batch=1), x], dim=1)
    near, late = model(x, model.initial_state(1))[0], model(far, model.initial_state(1))[0]
    torch.testing.assert_close(near[:, -1], late[:, -1], atol=1e-5, rtol=1e-4)


def test_init_bias_unseen_codes_are_unlikely():
    model = model_of("learned")
    counts = torch.zeros(2, 9)
    counts[0, 3], counts[1, 2] = 90, 90
    model.init_bias_from_counts(counts)
    context, _ = model(stream(model.spec, 3, batch=1), model.initial_state(1))
    drawn = model.sample(context[:, -1].expand(1000, -1), generator=torch.Generator().manual_seed(0))
    assert (drawn == torch.tensor([3, 2])).float().mean() > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_nll_of_an_ending_has_no_target(kind):
    """Where a piece ends, only the ending is scored; elsewhere the first level includes the probability of going on."""
    model = model_of(kind)
    x, y = stream(model.spec, 6), stream(model.spec, 9)[:, 3:]
    ends = torch.zeros(2, 6, dtype=torch.bool)
    ends[1, 4] = True
    nats, _ = model.nll(x, y, model.initial_state(2), ends)
    context, _ = model(x, model.initial_state(2))
    probability = model.end_logit(context).sigmoid()
    plain = model.head.nll(context, y)
    expected = plain.clone()
    expected[..., 0] -= (1 - probability).log()
    expected[1, 4] = 0
    expected[1, 4, 0] = -probability[1, 4].log()
    torch.testing.assert_close(nats, expected)
    torch.testing.assert_close(model.nll(x, y, model.initial_state(2))[0], plain)


def test_sample_ending_follows_its_probability():
    model = model_of("learned")
    torch.nn.init.constant_(model.ending.bias, -1.0)
    context = model.bos_context(20_000)
    drawn = model.sample_ending(context, generator=torch.Generator().manual_seed(0), sampling=Sampling())
    assert drawn.float().mean().item() == pytest.approx(torch.tensor(-1.0).sigmoid().item(), abs=0.01)
    assert not model.sample_ending(context, generator=None, sampling=Sampling(temperature=0.0)).any()
    torch.nn.init.constant_(model.ending.bias, 1.0)
    assert model.sample_ending(context, generator=None, sampling=Sampling(temperature=0.0)).all()


def test_sample_follows_the_nll():
    model = model_of("learned")
    x = stream(model.spec, 3, batch=1)
    context = model(x, model.initial_state(1))[0][:, -1].expand(20_000, -1)
    drawn = model.sample(context, generator=torch.Generator().manual_seed(0))
    steps = torch.cartesian_prod(torch.arange(9), torch.arange(4))
    expected = model.head.nll(context[: len(steps), None], steps[:, None]).sum(-1)[:, 0].neg().exp()
    counted = torch.bincount(drawn[:, 0] * 4 + drawn[:, 1], minlength=36) / len(drawn)
    assert (counted - expected).abs().max() < 0.01


def test_sample_refining_levels_use_the_fine_temperature():
    """At fine temperature 0 only the first level varies; levels that refine nothing ignore it."""
    for kind, varies in [("geometry", False), ("learned", True)]:
        model = model_of(kind)
        context = torch.randn(1, 16).expand(300, -1)
        how = Sampling(fine_temperature=0.0)
        drawn = model.sample(context, generator=torch.Generator().manual_seed(0), sampling=how)
        assert len(drawn[:, 0].unique()) > 1
        of_first = [drawn[drawn[:, 0] == first, 1].unique() for first in drawn[:, 0].unique()]
        assert any(len(seconds) > 1 for seconds in of_first) == varies


def test_level_head_level_depends_on_earlier_levels_only():
    model = model_of("geometry")
    context = torch.randn(1, 1, 16)
    a, b = torch.tensor([[[1, 2, 3]]]), torch.tensor([[[1, 5, 3]]])
    x, y = model.head.nll(context, a)[0, 0], model.head.nll(context, b)[0, 0]
    assert x[0] == y[0]
    assert x[1] != y[1]
    assert x[2] != y[2]


def test_quantizer_dropout_hides_fine_levels_of_some_rows():
    model = model_of("geometry")
    assert isinstance(model.head, LevelHead)
    x = stream(model.spec, 200, batch=64)
    sums = model.head.embedding(x)
    model.quantizer_dropout = 0.5
    embedded = model.head.embed(x, model.sample_n_quantizers(64, 200))
    whole = (embedded == sums[-1]).all(-1)
    share = whole.all(-1).float().mean().item()
    assert 0.3 < share < 0.7
    partial = ~whole.all(-1)
    assert torch.stack([(embedded == s).all(-1) for s in sums]).any(0).all()
    assert 0.2 < whole[partial].float().mean() < 0.5  # a third of their steps are whole by chance
    model.quantizer_dropout = 0.0
    assert model.sample_n_quantizers(64, 200) is None
    assert torch.equal(model.head.embed(x), sums[-1])


def test_regression_head_nll_is_that_of_a_gaussian():
    model = model_of("continuous")
    x = stream(model.spec, 4)
    context, _ = model(x, model.initial_state(2))
    mean = model.head.out(context)
    z = (x - model.spec.mean) / model.spec.deviation
    expected = -torch.distributions.Normal(mean, 1.0).log_prob(z).sum(-1, keepdim=True)
    torch.testing.assert_close(model.head.nll(context, x), expected)
    frame = model.sample(context[:, -1])
    assert frame.shape == (2, 10)
    assert (frame[:, :5] >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_A04_model_learns_a_repeating_stream(kind):
    """A repeating stream is learned far below what the untrained model needs."""
    model = model_of(kind).train()
    pattern = stream(model.spec, 4, batch=1).repeat(4, 8, 1)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(150):
        nats, _ = model.nll(pattern[:, :-1], pattern[:, 1:], model.initial_state(4))
        loss = nats.sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    floor = 0.5 * model.spec.features * math.log(2 * math.pi)  # of the Gaussian; 0 for codes
    assert losses[-1] - floor < 0.25 * (losses[0] - floor)


def test_load_weights_of_the_demo_model_lacks_nothing():
    path = ROOT / "models" / "demo" / "chorales.safetensors"
    tensors, facts = checkpoint.load_model(path, "average.", "best.", "featurizer.")
    weights = checkpoint.under_prefix(checkpoint.weights_prefix(facts["progress"]), tensors)
    model = Predictor.load(path.with_suffix(".json")).model
    for name in ("in_proj.weight", "bos", "head.partial_proj.bias"):
        assert torch.equal(model.state_dict()[name], weights[name])
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_weights({name: tensor for name, tensor in weights.items() if name != "in_proj.weight"})


def test_models_table_has_every_architecture_of_the_metadata():
    assert set(MODELS) == {section.kind for section in SECTIONS.values()}


def decoded(codes: torch.Tensor, vectors: torch.Tensor, decoder: ChangeDecoder) -> torch.Tensor:
    changes = vectors[torch.arange(len(vectors)), codes].sum(2)
    return decoder(changes, torch.zeros(len(codes), vectors.shape[-1]))[0][..., vectors.shape[-1] :]


def test_change_decoder_leads_back_after_it_went_astray():
    """The history leaves the stream at step 5 alone; codes from there on bring it back, and nothing else changes."""
    torch.manual_seed(0)
    vectors = torch.randn(3, 256, 4) * torch.tensor([1.0, 0.4, 0.15])[:, None, None]
    decoder, codes = ChangeDecoder(torch.full((4,), 0.8)), torch.randint(256, (8, 20, 3))
    none = torch.zeros(8, 20, 3, 256)
    history, targets = decoder.led_astray(codes, torch.zeros(8, 4), vectors, none)
    assert torch.equal(history, targets)
    near = (decoded(history, vectors, decoder) - decoded(codes, vectors, decoder)).norm(dim=-1)
    assert near.mean() < 0.1  # nearest codes of a sum of codes are mostly those codes
    noise = none.clone()
    noise[:, 5] = 100 * torch.randn(8, 3, 256)
    history, targets = decoder.led_astray(codes, torch.zeros(8, 4), vectors, noise)
    assert torch.equal(history[:, :5], targets[:, :5])
    assert (history[:, 5] != targets[:, 5]).any(-1).all()
    assert torch.equal(history[:, 6:], targets[:, 6:])
    away = (decoded(history, vectors, decoder) - decoded(codes, vectors, decoder)).norm(dim=-1)
    assert away[:, 5].mean() > 1
    assert away[:, 8:].mean() < 0.2
