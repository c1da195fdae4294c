"""Packed weights: the same model, nearly, and the plain one stays what it was."""

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT

from continuo.metadata import Architecture, ConvSection, LstmSection, MlpSection, TransformerSection, from_preset
from continuo.packing import PackedHead, PackedLinear
from continuo.sampling import Sampling
from continuo.stream import StreamSpec
from model_definition import SequenceModel, build_model

STEPS = 40


def refined(section: Architecture | None = None) -> SequenceModel:
    """A model of codes that refine one another, whose logits differ enough to be told apart."""
    torch.manual_seed(0)
    spec = StreamSpec(
        62.5, (96, 96, 96), vectors=torch.randn(3, 96, 20) * torch.tensor([1.0, 0.5, 0.25])[:, None, None]
    )
    section = section or LstmSection(kind="lstm", hidden=128, layers=2, head_width=96, code_dropout=0.5)
    model = build_model(section, spec).eval()
    with torch.no_grad():
        model.head.out *= 4
    return model


def heard(model: SequenceModel, codes: torch.Tensor) -> torch.Tensor:
    """Contexts `(B, T, W)` step by step."""
    state, contexts = model.initial_state(len(codes)), []
    with torch.inference_mode():
        for t in range(codes.shape[1]):
            context, state = model.step(codes[:, t], state)
            contexts.append(context)
    return torch.stack(contexts, dim=1)


def test_a_packed_matrix_is_the_matrix_to_a_percent():
    torch.manual_seed(1)
    plain = torch.nn.Linear(200, 150)
    x = torch.randn(7, 200)
    error = PackedLinear(plain.weight, plain.bias)(x) - plain(x)
    assert error.norm() < 0.02 * plain(x).norm()


@pytest.mark.parametrize(
    "section",
    [
        LstmSection(kind="lstm", hidden=128, layers=2, head_width=96),
        TransformerSection(kind="transformer", hidden=128, layers=2, heads=4, context=16, head_width=96),
        ConvSection(kind="conv", hidden=128, layers=2, head_width=96),
        MlpSection(kind="mlp", hidden=128, layers=1, window=4, head_width=96),
    ],
)
def test_packed_steps_cost_half_a_percent_of_the_nats_at_most(section):
    plain = refined(section)
    fast = plain.packed()
    assert isinstance(fast.head, PackedHead)
    state, x, drawn = plain.initial_state(8), torch.zeros(8, 3, dtype=torch.long), []
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for _ in range(STEPS):  # what the plain model makes is what it finds likely
            context, state = plain.step(x, state)
            x = plain.sample(context, generator=generator, how=Sampling(1, 1, 1))
            drawn.append(x)
        codes = torch.stack(drawn, dim=1)
        contexts, ours = heard(plain, codes[:, :-1]), heard(fast, codes[:, :-1])
        assert (ours - contexts).norm() < 0.03 * contexts.norm()
        wanted = plain.head.nats(contexts, codes[:, 1:]).mean((0, 1))
        for level in range(3):
            nats = F.cross_entropy(fast.head.logits(ours.flatten(0, 1), level), codes[:, 1:, level].flatten())
            assert abs(nats - wanted[level]) < 0.005 * wanted.sum()
            ours = fast.head.knowing(ours, level, codes[:, 1:, level])


def test_packed_draws_are_seeded_and_nearly_those_of_the_plain_model():
    plain = refined()
    fast = plain.packed()
    contexts = torch.randn(200, 96, generator=torch.Generator().manual_seed(3))
    draws = [
        model.sample(contexts, generator=torch.Generator().manual_seed(5), how=Sampling())
        for model in (plain, fast, fast)
    ]
    assert torch.equal(draws[1], draws[2])
    assert (draws[0][:, 0] == draws[1][:, 0]).float().mean() > 0.9
    allowed = torch.zeros(200, 96, dtype=torch.bool)
    allowed[:, 7] = True
    assert (fast.sample(contexts, how=Sampling(), allowed=allowed)[:, 0] == 7).all()


def test_the_plain_model_stays_as_it_was():
    plain = refined()
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    plain.packed()
    assert plain.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in plain.state_dict().items())


def test_where_there_are_no_such_products_the_plain_model_steps(monkeypatch):
    plain = refined()
    monkeypatch.setattr("continuo.packing.ENGINES", ())
    assert plain.packed() is plain


@pytest.mark.parametrize("preset", sorted(path.stem for path in (ROOT / "models").glob("*.json")))
@pytest.mark.parametrize("continuous", [False, True])
def test_every_preset_steps_packed_at_its_real_size(preset, continuous):
    """Small models are hardly packed, so a fault in the large ones would not show in them."""
    section = from_preset(preset, {}, state="unused.safetensors").architecture
    values = torch.zeros(10), torch.ones(10)
    spec = StreamSpec(62.5, features=10, mean=values[0], deviation=values[1]) if continuous else refined().spec
    torch.manual_seed(0)
    plain = build_model(section, spec).eval()
    steps = torch.randn(2, 5, 10) if continuous else torch.randint(96, (2, 5, 3))
    contexts = heard(plain, steps)
    assert (heard(plain.packed(), steps) - contexts).norm() < 0.03 * contexts.norm()
