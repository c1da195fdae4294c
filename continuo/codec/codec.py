"""The codec of sound: shipped principal components, codes and decoder network, for 44.1 kHz in mono or stereo.

`models/codec/codec.safetensors` holds it. Codes mean the same for all models. `adapt` goes on training a part of the
network for half a minute on a folder, so that it knows its instruments, and keeps the result where held-out music
improves by it.
"""

import copy
import hashlib
import math
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import cache, cached_property

import safetensors.torch
import torch

from continuo.audio.phase import PASSES
from continuo.codec.loss import RestorationLoss
from continuo.codec.network import AHEAD, PAST, RestorationNetwork, pad_edges
from continuo.codec.quantizer import WARM_UP, PredictiveQuantizer
from continuo.codec.vectors import FLOOR, HIGH_BANDS, HOP, LOW_FLOOR, N_FFT, FrameVectors
from continuo.system.device import choose_precision
from continuo.system.int8 import dequantize_int8
from continuo.system.paths import MODELS

SHIPPED = MODELS / "codec" / "codec.safetensors"
RUN = 64  # frames of a run that the loss compares
SAMPLED = WARM_UP + PAST + RUN + AHEAD  # frames of a run that is read for it
MAX_RUNS, BATCH, LEARNING_RATE = 256, 6, 1.5e-3
PASSES_TRIED = 0, 2, PASSES  # of the decoder's phases: few suit steady tones, many suit choirs and noise
AUDIO_FROM = 0.25  # fraction of the adaptation from which on every other step compares the audio
HELD_OUT = 8  # every eighth run is held out

Tensors = dict[str, torch.Tensor]


def is_adapted(name: str) -> bool:
    """Return True for parameters of the network that are adapted: all but the matrices of the first three blocks."""
    return not (name.startswith(("blocks.0.", "blocks.1.", "blocks.2.")) and name.endswith((".a.weight", ".b.weight")))


def checked(tensors: Tensors, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return the tensor of a name; ValueError if it is not float32 of this shape."""
    tensor = tensors[name]
    if tensor.shape != shape or tensor.dtype != torch.float32:
        raise ValueError(f"{name} is {tensor.dtype} of {list(tensor.shape)}, not float32 of {list(shape)}")
    return tensor


@cache
def shipped() -> Tensors:
    """Return the tensors of the codec that the project ships, in float32; ValueError if the file is not there."""
    if not SHIPPED.is_file():
        raise ValueError(f"{SHIPPED} is missing: install Continuo again")
    return {name: tensor.float() for name, tensor in dequantize_int8(safetensors.torch.load_file(SHIPPED)).items()}


class SpectralCodec:
    """Turn frames of one or two channels into codes that mean the same for all music, and codes into magnitudes.

    Frames are those of an STFT with `N_FFT` samples every `HOP` at `RATE_HZ`. Codes hold no phase.

    Args:
        channels: of what is decoded, 1 or 2; frames may have one or two.
        adaptation_steps: training steps of the network on a folder; 0: it stays as shipped.
        tensors: those of another codec than the shipped one.
    """

    def __init__(self, channels: int, adaptation_steps: int, tensors: Tensors | None = None) -> None:
        self.channels, self.adaptation_steps, self.passes = channels, adaptation_steps, PASSES
        self.settled = not adaptation_steps  # whether there is nothing left to adapt
        self.origin = tensors or shipped()
        self.vectors = FrameVectors()
        levels, centroids, components = self.origin["centroids"].shape
        width = len(self.vectors.weight)
        self.mean = checked(self.origin, "mean", (width,))
        self.axes = checked(self.origin, "components", (components, width))  # orthonormal rows
        self.quantizer = PredictiveQuantizer(self.origin["centroids"], checked(self.origin, "decay", (components,)))
        self.vocabulary = (centroids,) * levels
        self.network = RestorationNetwork(components, width)
        self._load_network({})

    def _load_network(self, adapted: Tensors) -> None:
        """Load the network of the codec, with some tensors in place of its own: `adapted`, by the names in a state."""
        prefix, self.adapted = "network.", adapted
        own = {name: tensor for name, tensor in self.origin.items() if name.startswith(prefix)}
        self.network.load_state_dict({n.removeprefix(prefix): t for n, t in (own | adapted).items()})
        self.network.eval().requires_grad_(False)

    @cached_property
    def digest(self) -> torch.Tensor:
        """Return a digest of the codec before adaptation, `(16,)` uint8: of its codes and of its network."""
        digest = hashlib.blake2b(digest_size=16)
        for name, tensor in sorted(self.origin.items()):
            digest.update(name.encode() + tensor.half().contiguous().numpy().tobytes())
        return torch.tensor(list(digest.digest()), dtype=torch.uint8)

    def adapt(self, sample: Callable[[int], Iterable[torch.Tensor]], *, seed: int) -> Iterator[None]:
        """Adapt the network to a folder of music, part by part, and keep the result if held-out runs improve.

        What the codec decodes changes with the last part only. The result does not depend on what happens in between.

        Args:
            sample: returns about as many complex frames as asked for, in runs of at most `SAMPLED`.
        """
        runs = []
        for run in sample(MAX_RUNS * SAMPLED):
            if len(run) == SAMPLED:
                runs.append(run)
                yield
        state = self.to_dict()
        if len(runs) >= 2 * HELD_OUT:
            codes = self.quantizer.encode(torch.stack([self.project(run) for run in runs]))
            coded = self.components(codes)[:, WARM_UP:]
            inner = [run[WARM_UP + PAST : WARM_UP + PAST + RUN] for run in runs]
            real = torch.stack([self.vectors.measure(run, LOW_FLOOR) for run in inner])
            phases = torch.stack([self.vectors.low_phases(run) for run in inner])
            state |= yield from self._adapt(coded, real, phases, seed)
        self.load_dict(state | {"settled": torch.tensor(True)})  # in half precision, as another process will

    def loss(self, run: int) -> RestorationLoss:
        """Return the loss of the network on runs of `run` frames."""
        low_hz = self.vectors.bins_hz[: self.vectors.high.start]
        weight = self.vectors.weight
        return RestorationLoss(weight, low_hz, HIGH_BANDS, floor=LOW_FLOOR, n_fft=N_FFT, hop=HOP, run=run)

    # Longer than 40 lines: loss, choice of passes and loop share the runs and the random numbers.
    def _adapt(
        self, coded: torch.Tensor, real: torch.Tensor, phases: torch.Tensor, seed: int
    ) -> Generator[None, None, Tensors]:
        """Train a copy of the network on R runs, choose the decoder's passes, and return what to change in the state.

        Shape: decoded components `(R, PAST + RUN + AHEAD, P)`, vectors `(R, RUN, F)` and phases `(R, RUN, K)`.
        """
        network, loss = copy.deepcopy(self.network), self.loss(RUN)
        parameters = {name: weight for name, weight in network.named_parameters() if is_adapted(name)}
        held_out = torch.arange(len(real)) % HELD_OUT == 0
        train = (~held_out).nonzero()[:, 0]
        generator = torch.Generator().manual_seed(seed % 2**63)
        fast = choose_precision("auto", torch.device("cpu")) == torch.bfloat16

        def error(rows: torch.Tensor, passes: int, audio: bool = True) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=fast):
                corrections = network(coded[rows])
            made = self.looked_up(coded[rows, PAST : PAST + RUN]) + corrections.float()
            return loss(made, real[rows], phases[rows] if audio else None, passes)

        @torch.no_grad()
        def best_passes() -> tuple[float, int]:
            """Return the smallest held-out error over numbers of passes, and that number."""
            return min((float(error(held_out, passes)), passes) for passes in PASSES_TRIED)

        first, passes = best_passes()
        optimizer = torch.optim.AdamW([w.requires_grad_(True) for w in parameters.values()], LEARNING_RATE, fused=True)
        for step in range(self.adaptation_steps):
            yield
            if step == int(AUDIO_FROM * self.adaptation_steps):
                _, passes = best_passes()
            done = step / self.adaptation_steps
            rate = LEARNING_RATE * min(1, (step + 1) / 20) * (1 + math.cos(math.pi * done)) / 2
            optimizer.param_groups[0]["lr"] = rate
            rows = train[torch.randint(len(train), (BATCH,), generator=generator)]
            optimizer.zero_grad()
            error(rows, passes, audio=done >= AUDIO_FROM and step % 2 == 0).backward()
            optimizer.step()
        last, passes = best_passes()
        if last >= first:
            return {}
        weights = {f"network.{name}": weight.detach().half() for name, weight in parameters.items()}
        return {"passes": torch.tensor(passes)} | weights

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Return the codes `(T, L)` int64 of one run of complex frames `(T, K)` or `(T, 2, K)`.

        The codes of the first `WARM_UP` frames suit only this run.
        """
        return self.quantizer.encode(self.project(frames)[None])[0]

    def project(self, frames: torch.Tensor) -> torch.Tensor:
        """Return the components `(T, P)` of complex frames, before quantization."""
        return self.projected(self.vectors.measure(frames, FLOOR))

    def projected(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the components `(..., P)` of vectors `(..., F)` with the floor of the codes."""
        return (vectors - self.mean) @ self.axes.T

    def components(self, codes: torch.Tensor, before: torch.Tensor | None = None) -> torch.Tensor:
        """Return the components `(..., T, P)` of codes `(..., T, L)` that follow a frame with components `before`."""
        return self.quantizer.decode(codes, before)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Return STFT magnitudes `(T, K)` of codes `(T, L)`."""
        return self.decode_components(pad_edges(self.components(codes), PAST, AHEAD))[0]

    @torch.no_grad()
    def decode_components(self, components: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return magnitudes `(T, K)` and stereo parameters `(T, 2 * BANDS)` of components `(PAST + T + AHEAD, P)`."""
        inner = components[PAST : len(components) - AHEAD]
        return self.vectors.magnitudes(self.looked_up(inner) + self.network(components[None])[0])

    def looked_up(self, components: torch.Tensor) -> torch.Tensor:
        """Return the vectors `(..., F)` that components `(..., P)` stand for, with the floor of the network."""
        return self.vectors.with_low_floor(components @ self.axes + self.mean)

    def round_trip(self, frames: torch.Tensor) -> torch.Tensor:
        """Return the magnitudes `(T, K)` that are left of complex frames after encoding and decoding."""
        return self.decode(self.encode(frames))

    def to_dict(self) -> Tensors:
        """Return what a folder decided, in half precision, and a digest of the rest, which is shipped."""
        numbers = {"channels": self.channels, "passes": self.passes, "settled": self.settled}
        decided = {name: torch.tensor(number) for name, number in numbers.items()}
        return {"shipped": self.digest} | decided | {name: tensor.half() for name, tensor in self.adapted.items()}

    def load_dict(self, tensors: Tensors) -> None:
        """Load what `to_dict` returned; ValueError, RuntimeError or KeyError if it is damaged or of another codec."""
        if not torch.equal(tensors["shipped"], self.digest):
            raise ValueError(f"its codes are not those of {SHIPPED.name}, which Continuo ships now")
        channels, passes = int(tensors["channels"]), int(tensors["passes"])
        if channels not in (1, 2) or passes not in PASSES_TRIED:
            raise ValueError(f"{channels} channels, {passes} passes")
        self._load_network({name: tensor.float() for name, tensor in tensors.items() if name.startswith("network.")})
        self.channels, self.passes, self.settled = channels, passes, bool(tensors["settled"])
