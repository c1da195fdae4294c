"""Build small models with every kind of backbone and head, and streams that they read."""

import torch

from continuo.model.metadata import ConvSection, LstmSection, MlpSection, TransformerSection
from continuo.model.stream import StreamSpec
from model_definition import SequenceModel, build_model


def spec_of(kind: str) -> StreamSpec:
    torch.manual_seed(0)
    if kind == "geometry":
        return StreamSpec(62.5, (7, 7, 7), vectors=torch.randn(3, 7, 5))
    if kind == "changes":
        return StreamSpec(62.5, (7, 7, 7), vectors=torch.randn(3, 7, 5), decay=torch.linspace(0, 0.8, 5))
    if kind == "learned":
        return StreamSpec(4.0, (9, 4))
    if kind == "sets":
        return StreamSpec(4.0, (6, 6, 6), ranks=torch.tensor([4, 0, 0, 1, 2, 3]))
    return StreamSpec(62.5, features=10, mean=torch.randn(10), deviation=torch.rand(10) + 0.5)


SMALL = {"hidden": 12, "layers": 2, "head_width": 16}
SECTIONS = {
    "lstm": LstmSection(kind="lstm", **SMALL),
    "lstm-onsets": LstmSection(kind="lstm", onset_memory=3, **SMALL),
    "conv": ConvSection(kind="conv", kernel=3, **SMALL),
    "mlp": MlpSection(kind="mlp", window=4, **SMALL),
    "transformer": TransformerSection(kind="transformer", heads=2, context=5, **SMALL),
}


def model_of(kind: str, dropout: float = 0.0, backbone: str = "lstm") -> SequenceModel:
    torch.manual_seed(1)
    section = SECTIONS[backbone].model_copy(update={"dropout": dropout})
    return build_model(section, spec_of(kind)).eval()


def stream(spec: StreamSpec, steps: int, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    if spec.continuous:
        return torch.randn(batch, steps, spec.features, generator=generator).abs()
    if spec.ranks is not None:
        return SETS[torch.randint(len(SETS), (batch, steps), generator=generator)]
    return torch.stack([torch.randint(v, (batch, steps), generator=generator) for v in spec.vocabulary], dim=-1)


SETS = torch.tensor([[0, 0, 0], [1, 0, 0], [2, 3, 0], [1, 4, 5], [3, 0, 0], [2, 4, 0]])
KINDS = ["geometry", "changes", "learned", "continuous", "sets"]
