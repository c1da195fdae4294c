"""Train the network of the codec on runs of all groups, with a checkpoint each minute."""

import math
import time
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

from continuo.audio.phase import PASSES
from continuo.codec.codec import SpectralCodec, Tensors
from continuo.codec.network import AHEAD, PAST
from continuo.model.checkpoint import under_prefix
from continuo.system.device import choose_precision
from continuo.system.files import atomic_write
from continuo.system.progress import Display

RUN = 48  # frames of a run that the loss compares
BATCH, LEARNING_RATE, WARMUP_STEPS, BETAS, MAX_NORM = 12, 1e-3, 100, (0.9, 0.98), 5.0
CONSTANT_RATE, LAST_RATE = 0.5, 0.03  # fraction of the training at the full learning rate, and the last rate over it
AUDIO, PERTURBED = 0.5, 0.5  # fractions of the steps: statistics of the audio, and perturbed components
PERTURBED_FRAMES, PERTURBATIONS = 0.3, (0.03, 0.13)  # fraction of frames, and deviation over that of the components
MAX_AVERAGE = 0.999  # share of the average of weights that a step keeps
CHECKPOINT_S = 60.0
SCALE_FRAMES = 2000  # first frames of each group by whose deviation the network divides components
RENDERED_WEIGHT = 1.3  # of a group made of scores in the choice of runs, relative to recordings


def load(path: Path) -> Tensors:
    """Return the tensors of a file, which stay there until they are used; ValueError if it is damaged."""
    try:
        tensors: Tensors = safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read: delete it, and start again") from error
    return tensors


def starts(lengths: torch.Tensor, frames: int) -> torch.Tensor:
    """Return where runs of `frames` frames can begin in a group so that each lies in one recording."""
    ends = lengths.cumsum(0).tolist()
    places = zip([0, *ends], ends, strict=False)
    return torch.cat([torch.arange(first, max(first, end - frames + 1)) for first, end in places])


def draw(rows: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Return `count` rows at random, which may repeat."""
    return rows[torch.randint(len(rows), (count,), generator=generator)]


class Sampler:
    """Draw runs of all groups: the vectors to restore, their phases, and the decoded components around them."""

    def __init__(self, files: list[Path], decoded: list[Path]) -> None:
        self.groups = [load(path) | load(other) for path, other in zip(files, decoded, strict=True)]
        self.starts = [starts(group["lengths"], PAST + RUN + AHEAD) for group in self.groups]
        rendered = [path.name.startswith("rendered-") for path in files]
        weights = [len(rows) ** 0.5 * RENDERED_WEIGHT**made for rows, made in zip(self.starts, rendered, strict=True)]
        self.weights = torch.tensor(weights)

    def batch(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return components `(B, PAST + RUN + AHEAD, P)`, vectors `(B, RUN, F)` and phases `(B, RUN, K)`."""
        rows = []
        for i in torch.multinomial(self.weights, BATCH, True, generator=generator).tolist():
            start, group = int(draw(self.starts[i], 1, generator)), self.groups[i]
            inner = slice(start + PAST, start + PAST + RUN)
            around = group["components"][start : inner.stop + AHEAD]
            rows.append((around, group["vectors"][inner], group["phases"][inner]))
        components, vectors, phases = (torch.stack(parts).float() for parts in zip(*rows, strict=True))
        return components, vectors, phases


def perturbed(components: torch.Tensor, scale: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return components `(B, T, P)` with noise in some frames, as if a model had chosen codes that fit less."""
    least, most = PERTURBATIONS
    deviation = scale * (least + (most - least) * torch.rand((len(components), 1, 1), generator=generator))
    chosen = torch.rand((*components.shape[:2], 1), generator=generator) < PERTURBED_FRAMES
    return components + torch.randn(components.shape, generator=generator) * deviation * chosen


def learning_rate(step: int, done: float) -> float:
    """Return the learning rate of a step at which a fraction `done` of the training time has passed."""
    fall = (1 + math.cos(math.pi * max(0.0, done - CONSTANT_RATE) / (1 - CONSTANT_RATE))) / 2
    return LEARNING_RATE * min(1.0, (step + 1) / WARMUP_STEPS) * (LAST_RATE + (1 - LAST_RATE) * fall)


def train_network(
    codec: SpectralCodec,
    files: list[Path],
    decoded: list[Path],
    path: Path,
    budget_s: float,
    seed: int,
    display: Display,
) -> None:
    """Train the network for `budget_s` seconds, those of earlier calls included, and load the average of its weights.

    The batch of a step depends on `seed` and the number of the step alone.
    """
    network, step, used_s = codec.network, 0, 0.0
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, BETAS, weight_decay=0.01, fused=True)
    if path.exists():
        saved = load(path)
        network.load_state_dict(under_prefix("network", saved))
        average, step, used_s = under_prefix("average", saved), int(saved["step"]), float(saved["used_s"])
        moments = [under_prefix(f"optimizer.{number}", saved) for number, _ in enumerate(network.parameters())]
        optimizer.load_state_dict(optimizer.state_dict() | {"state": dict(enumerate(moments))})
    else:
        if not network.out.weight.any():  # a new network
            network.scale.fill_(
                torch.cat([load(other)["components"][:SCALE_FRAMES].float() for other in decoded]).std()
            )
        average = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    sampler = Sampler(files, decoded)
    loss = codec.loss(RUN)
    fast = choose_precision("auto", torch.device("cpu")) == torch.bfloat16
    network.requires_grad_(True)
    task = display.task("training the network", budget_s)
    started, saved_s, recent = time.monotonic() - used_s, used_s, 0.0
    while used_s < budget_s:
        generator = torch.Generator().manual_seed((seed << 32) + step)
        components, real, phases = sampler.batch(generator)
        perturb, audio, some = torch.rand(3, generator=generator).tolist()
        if perturb < PERTURBED:
            components = perturbed(components, network.scale, generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            corrections = network(components)
        made = codec.looked_up(components[:, PAST : PAST + RUN]) + corrections.float()
        error = loss(made, real, phases if audio < AUDIO else None, passes=PASSES if some < 0.5 else 0)
        optimizer.param_groups[0]["lr"] = learning_rate(step, used_s / budget_s)
        optimizer.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), MAX_NORM)
        optimizer.step()
        step += 1
        kept = min(MAX_AVERAGE, 1 - 10 / (step + 10))
        for name, tensor in network.state_dict().items():
            average[name].lerp_(tensor, 1 - kept)
        used_s = time.monotonic() - started
        recent += (float(error.detach()) - recent) * max(0.01, 1 / step)
        task.update(used_s, f"step {step}, loss {recent:.4f}")
        if used_s - saved_s > CHECKPOINT_S or used_s >= budget_s:
            parts = {"average": average, "network": network.state_dict()}
            parts |= {f"optimizer.{number}": of for number, of in optimizer.state_dict()["state"].items()}
            saved = {"step": torch.tensor(step), "used_s": torch.tensor(used_s, dtype=torch.float64)}
            saved |= {
                f"{part}.{name}": tensor.contiguous() for part, of in parts.items() for name, tensor in of.items()
            }
            with atomic_write(path) as temporary:
                safetensors.torch.save_file(saved, temporary)
            saved_s = used_s
    task.close()
    network.requires_grad_(False)
    network.load_state_dict(average)
