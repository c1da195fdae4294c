"""The codec for all music: shipped principal components, codes and decoder network, for 44.1 kHz in mono or stereo.

`models/codec/codec.safetensors` holds it. Nothing has to be fitted; `fit` goes on training the network for some seconds
on a folder, so that it knows its instruments, and keeps the result where held-out music improves by it.
"""

import math
from collections.abc import Callable, Iterable
from functools import cache

import safetensors.torch
import torch

from continuo.audio.codebook import Advance, ResidualCodebook
from continuo.audio.codec import SpectralCodec, SpectralSettings, Tensors, checked
from continuo.audio.phase import PASSES
from continuo.audio.stereo import BANDS
from continuo.system.device import choose_precision
from continuo.system.paths import MODELS
from continuo.universal.loss import RestorationLoss
from continuo.universal.network import AHEAD, PAST, RestorationNetwork
from continuo.universal.quantizer import WARM_UP, PredictiveQuantizer

SHIPPED = MODELS / "codec" / "codec.safetensors"
RATE_HZ, N_FFT, HOP = 44_100, 2816, 704
FLOOR, LOW_FLOOR = 4e-4, 3e-5  # of full scale, added to magnitudes: what is coded, and what the network restores
QUIETEST = 5e-5  # magnitude of what lies below the floor of the codes, before the network
RUN = 32  # frames of a run that the loss compares
SAMPLED = WARM_UP + PAST + RUN + AHEAD  # frames of a run that is read for it
MAX_RUNS, BATCH, LEARNING_RATE = 512, 12, 1.5e-3
PASSES_TRIED = 0, 2, PASSES  # of the decoder's phases: few suit steady tones, many suit choirs and noise
HEARD_FROM = 0.25  # fraction of the adaptation from which on every other step compares what is heard
HELD_OUT = 8  # every eighth run is held out
REPORTS = 20  # calls of `advance` while the network is adapted


@cache
def shipped() -> Tensors:
    """Return the tensors of the codec that the project ships, in float32; ValueError if the file is not there."""
    if not SHIPPED.is_file():
        raise ValueError(f"{SHIPPED} is missing: install Continuo again")
    return {name: tensor.float() for name, tensor in safetensors.torch.load_file(SHIPPED).items()}


class UniversalCodec(SpectralCodec):
    """Turn frames of one or two channels into codes that mean the same for all music, and codes into magnitudes.

    Args:
        channels: of what is decoded, 1 or 2; frames may have one or two.
        adaptation_steps: training steps of the network on a folder; 0: it stays as shipped.
        tensors: those of another codec than the shipped one.
    """

    past, ahead = PAST, AHEAD
    prompt_frames = WARM_UP + PAST
    quantizer: PredictiveQuantizer

    def __init__(self, channels: int, adaptation_steps: int, tensors: Tensors | None = None) -> None:
        tensors = tensors or shipped()
        levels, centroids, components = tensors["centroids"].shape
        # The vectors always have stereo parameters; those of mono frames are zero.
        super().__init__(SpectralSettings(RATE_HZ, N_FFT, HOP, FLOOR, components, levels, centroids, 0, 0, 0, 2))
        self.channels, self.adaptation_steps = channels, adaptation_steps
        self.network = RestorationNetwork(components, len(self.weight))
        self.logs = len(self.weight) - 2 * BANDS  # values of a vector that are log magnitudes
        self.load_dict(tensors)

    def with_channels(self, channels: int) -> "UniversalCodec":
        return self if channels == self.channels else UniversalCodec(channels, self.adaptation_steps)

    def like(self, tensors: Tensors) -> "UniversalCodec":
        return self.with_channels(int(tensors["channels"]))

    def fit(
        self,
        sample: Callable[[int], Iterable[torch.Tensor]],
        frames: int,
        *,
        seed: int,
        advance: Advance,
        start: Tensors | None = None,
    ) -> None:
        """Adapt the network to a folder of music, and keep the result if held-out runs improve.

        Args:
            sample: returns about as many complex frames as asked for, in runs of at most `SAMPLED`.
            start: the tensors of a codec to continue from.
        """
        if start:
            self.load_dict(start)
        advance("sampling frames")
        runs = [run for run in sample(MAX_RUNS * SAMPLED) if len(run) == SAMPLED]
        if not self.adaptation_steps or len(runs) < 2 * HELD_OUT:
            return
        coded, real, phases = map(torch.stack, zip(*map(self._prepared, runs), strict=True))
        before = self.to_dict()
        improved = self._adapt(coded, real, phases, seed, advance)
        self.load_dict(self.to_dict() if improved else before)  # in half precision, as in a state

    def _prepared(self, run: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return decoded components `(PAST + RUN + AHEAD, P)`, vectors `(RUN, F)` and phases `(RUN, K)` of a run."""
        inner = slice(WARM_UP + PAST, WARM_UP + PAST + RUN)
        coded = self.components(self.encode(run))[WARM_UP:]
        mono = run if run.dim() == 2 else run.sum(1)
        return coded, self._vectors(run[inner], LOW_FLOOR), mono[inner, : self.high.start].angle()

    def _adapt(
        self, coded: torch.Tensor, real: torch.Tensor, phases: torch.Tensor, seed: int, advance: Advance
    ) -> bool:
        """Train the network on runs, choose the decoder's passes, and return whether held-out runs improved."""
        low_hz, bands = self.bins_hz[: self.high.start], len(self.high.bands)
        loss = RestorationLoss(self.weight, low_hz, bands, floor=LOW_FLOOR, n_fft=N_FFT, hop=HOP, run=RUN)
        held_out = torch.arange(len(real)) % HELD_OUT == 0
        train = (~held_out).nonzero()[:, 0]
        generator = torch.Generator().manual_seed(seed % 2**63)
        fast = choose_precision("auto", torch.device("cpu")) == torch.bfloat16

        def error(rows: torch.Tensor, heard: bool = True) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=fast):
                corrections = self.network(coded[rows])
            made = self._looked_up(coded[rows, PAST : PAST + RUN]) + corrections.float()
            return loss(made, real[rows], phases[rows] if heard else None, self.passes)

        def held_out_error() -> float:
            """Return the smallest error over numbers of passes, and choose that number."""
            errors = {}
            for self.passes in PASSES_TRIED:
                with torch.no_grad():
                    errors[self.passes] = float(error(held_out))
            self.passes = min(errors, key=errors.__getitem__)
            return errors[self.passes]

        first = held_out_error()
        self.network.requires_grad_(True)
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=LEARNING_RATE, fused=True)
        for step in range(self.adaptation_steps):
            if step % math.ceil(self.adaptation_steps / REPORTS) == 0:
                advance("decoder")
            if step == int(HEARD_FROM * self.adaptation_steps):
                held_out_error()
            done = step / self.adaptation_steps
            rate = LEARNING_RATE * min(1, (step + 1) / 20) * (1 + math.cos(math.pi * done)) / 2
            optimizer.param_groups[0]["lr"] = rate
            rows = train[torch.randint(len(train), (BATCH,), generator=generator)]
            optimizer.zero_grad()
            error(rows, heard=done >= HEARD_FROM and step % 2 == 0).backward()
            optimizer.step()
        self.network.requires_grad_(False)
        return held_out_error() < first

    def phase_costs(self, frames: int) -> list[float]:
        return [1.0] + [8.0 / REPORTS] * REPORTS * bool(self.adaptation_steps)

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Return the codes `(T, L)` of one run of complex frames; those of the first frames suit only this run."""
        return self.quantizer.encode(self.project(frames)[None])[0]

    def project(self, frames: torch.Tensor) -> torch.Tensor:
        """Return the components `(T, P)` of complex frames, before quantization."""
        return self.codebook.project(self.vectors(frames))

    def components(self, codes: torch.Tensor, before: torch.Tensor | None = None) -> torch.Tensor:
        return self.quantizer.decode(codes, before)

    @torch.no_grad()
    def decode_components(self, components: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inner = components[PAST : len(components) - AHEAD]
        values = (self._looked_up(inner) + self.network(components[None])[0]) / self.weight
        logs, image = values.tensor_split([self.logs], dim=1)
        folded = (logs.clamp(max=5).exp() - LOW_FLOOR).clamp(min=0) * self.full_scale
        return self.high.unfold(folded, len(self.bins_hz)), image

    def _looked_up(self, components: torch.Tensor) -> torch.Tensor:
        """Return the vectors `(..., F)` of components, with the floor of the network instead of that of the codes."""
        logs, image = (self.codebook.reconstruct(components) / self.weight).tensor_split([self.logs], dim=-1)
        magnitudes = (logs.clamp(max=4).exp() - FLOOR).clamp(min=QUIETEST)
        return torch.cat([(magnitudes + LOW_FLOOR).log(), image], dim=-1) * self.weight

    def to_dict(self) -> Tensors:
        weights = {f"network.{name}": tensor.half() for name, tensor in self.network.state_dict().items()}
        book = {"mean": self.codebook.mean, "components": self.codebook.components, "decay": self.quantizer.decay}
        numbers = {"channels": torch.tensor(self.channels), "passes": torch.tensor(self.passes)}
        return book | {"centroids": self.codebook.centroids} | numbers | weights

    def load_dict(self, tensors: Tensors) -> None:
        s, width = self.settings, len(self.weight)
        mean, components = checked(tensors, "mean", (width,)), checked(tensors, "components", (s.components, width))
        centroids = checked(tensors, "centroids", (s.levels, s.centroids, s.components))
        self.codebook = ResidualCodebook(mean, components, centroids)
        self.quantizer = PredictiveQuantizer(centroids, checked(tensors, "decay", (s.components,)))
        self.passes = int(tensors.get("passes", PASSES))
        if self.passes not in PASSES_TRIED:
            raise ValueError(f"{self.passes} passes")
        weights = {name.removeprefix("network."): t for name, t in tensors.items() if name.startswith("network.")}
        self.network.load_state_dict(weights)
        self.network.eval().requires_grad_(False)
