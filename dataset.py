"""Windows of encoded pieces, and the sampler that lays pieces on lanes.

A window is `T` steps of one piece with the target shifted by one step; it never reaches into another piece. Lane `b`
of batch `n + 1` goes on where lane `b` of batch `n` ended, so that a recurrent state can be carried along:

    lane 0:  [piece 4, window 0] [piece 4, window 1] [piece 4, window 2] [piece 9, window 0] ...
    lane 1:  [piece 7, window 5] [piece 7, window 6] [piece 2, window 0] [piece 2, window 1] ...
                                                      ^ a first window: the state is reset
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, Sampler

from continuo.audio.piece import Piece
from continuo.symbolic.song import Song
from continuo.system import cache
from continuo.system.workers import WORKERS, ordered_map
from featurizer import Featurizer


class Batch(NamedTuple):
    """Windows side by side: what is heard, and what comes next.

    `ends` marks steps after which the piece ends instead (the target there means nothing); `mask` is false where there
    is nothing to be learned, after a piece; `first` marks windows that begin a piece.

    Shape: inputs and targets `(B, T, L)` int64 or `(B, T, F)` float32, ends and mask `(B, T)` bool, first `(B,)` bool.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    ends: torch.Tensor
    mask: torch.Tensor
    first: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))


class AudioDataset(Dataset[Batch]):
    """Every step of every piece as an input once and as a target once (a piece's first step is only an input).

    After a piece's last step comes its end, unless the piece was cut there.

    Categorical streams are encoded once, in parallel, and read from a file (`CodeFile`) when a window is asked for;
    continuous ones are encoded then, from the audio. No frame is stored twice: windows are cut when they are asked for.
    So memory does not grow with the hours.

    Args:
        pieces: `Piece` or `Song`, as the featurizer hears, of at least two steps each; shorter ones are left out and
            named in `skipped`.
        featurizer: fitted.
        window: T, steps per window.
        advance: called with the number of pieces done.
    """

    def __init__(
        self,
        pieces: Sequence[Any],
        featurizer: Featurizer[Any],
        window: int,
        advance: Callable[[int], None] = lambda done: None,
    ) -> None:
        self.featurizer, self.window = featurizer, window
        self.codes: CodeFile | None = None
        if featurizer.spec.continuous:
            steps = [featurizer.steps(piece) for piece in pieces]
        else:
            self.codes, steps = CodeFile(featurizer.spec.vocabulary), []
            encode = partial(encoded, featurizer=featurizer, fingerprint=featurizer.fingerprint())
            workers = (
                WORKERS if featurizer.modality == "sound" else 1
            )  # notes are encoded inside the interpreter's lock
            with closing(ordered_map(encode, pieces, workers)) as streams:
                for done, stream in enumerate(streams, start=1):
                    steps.append(len(stream))
                    if len(stream) >= 2:
                        self.codes.append(stream)
                    advance(done)
        self.pieces = [piece for piece, count in zip(pieces, steps, strict=True) if count >= 2]
        self.skipped = [(p.id, "shorter than two steps") for p, count in zip(pieces, steps, strict=True) if count < 2]
        self.steps = [count for count in steps if count >= 2]
        events = [
            steps if piece.has_ending else steps - 1 for piece, steps in zip(self.pieces, self.steps, strict=True)
        ]
        self.windows = [-(-count // window) for count in events]  # ceil: the last one may be short
        self.first_window = np.concatenate([[0], np.cumsum(self.windows)]).astype(np.int64)

    def __len__(self) -> int:
        return int(self.first_window[-1])

    def counts(self) -> torch.Tensor | None:
        """How often each code occurs, `(L, V)`; None for a continuous stream."""
        return None if self.codes is None else torch.from_numpy(self.codes.counts).float()

    def locate(self, index: int) -> tuple[int, int]:
        """The piece of a window, and the step at which the window starts."""
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        piece = int(np.searchsorted(self.first_window, index, side="right")) - 1
        return piece, int(index - self.first_window[piece]) * self.window

    def read(self, piece: int, start: int, stop: int) -> torch.Tensor:
        """Steps `start` to `stop` of a piece."""
        if self.codes is not None:
            return torch.from_numpy(self.codes.read(piece, start, stop).astype(np.int64))
        return self.featurizer.encode(self.pieces[piece], start, min(stop, self.steps[piece]))

    def __getitem__(self, index: int | list[int]) -> Batch:
        """Windows side by side, shapes as in `Batch`; a lone index gives one window without the batch axis."""
        if isinstance(index, int):
            return Batch(*(tensor[0] for tensor in self[[index]]))
        places = [self.locate(i) for i in index]
        rows = [self.read(piece, start, start + self.window + 1) for piece, start in places]
        steps = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # (B, at most T + 1, L or F)
        steps = F.pad(steps, (0, 0, 0, self.window + 1 - steps.shape[1]))
        starts = torch.tensor([start for _, start in places])[:, None]
        last = torch.tensor([self.steps[piece] for piece, _ in places])[:, None]
        ending = torch.tensor([self.pieces[piece].has_ending for piece, _ in places])[:, None]
        following = starts + torch.arange(1, self.window + 1)
        ends = (following == last) & ending
        mask = (following < last) | ends
        return Batch(steps[:, :-1].contiguous(), steps[:, 1:].contiguous(), ends, mask, starts[:, 0] == 0)


class CodeFile:
    """Streams of codes one after another in a file without a name, which goes when this object does.

    An hour of audio takes 1.4 MB at 62.5 steps a second and 3 levels.

    Attributes:
        counts: how often each code occurs, `(L, V)`.
    """

    def __init__(self, vocabulary: Sequence[int]) -> None:
        cache.folder().mkdir(parents=True, exist_ok=True)
        self.file = tempfile.TemporaryFile(dir=cache.folder())  # noqa: SIM115, it is open as long as this object lives
        self.counts = np.zeros((len(vocabulary), max(vocabulary)))
        self.kind = np.dtype(smallest(vocabulary))
        self.first = [0]  # row at which each stream begins, and the end of the last

    def append(self, stream: np.ndarray) -> None:
        """Add a stream `(T, L)`."""
        for level, column in enumerate(stream.T):
            self.counts[level] += np.bincount(column, minlength=self.counts.shape[1])
        self.file.write(stream.astype(self.kind).tobytes())
        self.file.flush()
        self.first.append(self.first[-1] + len(stream))

    def read(self, stream: int, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop` of a stream, or to its end."""
        first, last = (min(self.first[stream] + row, self.first[stream + 1]) for row in (start, stop))
        row_bytes = len(self.counts) * self.kind.itemsize
        data = os.pread(self.file.fileno(), (last - first) * row_bytes, first * row_bytes)
        return np.frombuffer(data, self.kind).reshape(-1, len(self.counts))


def smallest(vocabulary: Sequence[int]) -> type[np.signedinteger]:
    """The smaller of two kinds of integers that holds every code."""
    return np.int16 if max(vocabulary) <= 2**15 else np.int32


def encoded(piece: Piece | Song, featurizer: Featurizer[Any], fingerprint: str) -> np.ndarray:
    """A piece's codes `(T, L)` in the smallest integers that hold them, from the cache where they were made before."""
    key = cache.key_of_values("codes", piece.key, fingerprint)
    codes = cache.get_array(key) if piece.key else None
    if codes is None or not _are_codes(codes, featurizer.spec.vocabulary):
        codes = featurizer.encode(piece).numpy().astype(smallest(featurizer.spec.vocabulary))
        if piece.key:
            cache.put_array(key, codes)
    return codes


def _are_codes(array: np.ndarray, vocabulary: Sequence[int]) -> bool:
    if array.dtype != smallest(vocabulary) or array.ndim != 2 or array.shape[1] != len(vocabulary):
        return False
    return bool((array >= 0).all() and (array < np.array(vocabulary)).all())


class RowSampler(Sampler[list[int]]):
    """An endless walk over pieces on parallel lanes, each epoch in a new order.

    At the very start every lane enters its piece at a random window, so that lanes do not march in step; from then on
    pieces are played from their beginning to their end.

    Args:
        windows: number of windows of each piece.
        lanes: B.
        seed: of the order.
        rows: the lanes whose windows are given; the walk is that of all lanes.
    """

    def __init__(self, windows: Sequence[int], lanes: int, seed: int, rows: slice = slice(None)) -> None:
        if not windows:
            raise ValueError("there is no piece of at least two steps to train on: add recordings")
        self.rows = rows
        self.first = np.concatenate([[0], np.cumsum(windows)]).astype(np.int64)
        self.generator = torch.Generator().manual_seed(seed)
        self.queue: list[int] = []
        self.lanes = torch.tensor([self._next_piece() for _ in range(lanes)])  # (B, 2): next window, end of the piece
        entry = torch.rand(lanes, generator=self.generator, dtype=torch.float64)
        self.lanes[:, 0] += (entry * (self.lanes[:, 1] - self.lanes[:, 0])).long()

    def _next_piece(self) -> tuple[int, int]:
        if not self.queue:
            self.queue = torch.randperm(len(self.first) - 1, generator=self.generator).tolist()
        piece = self.queue.pop()
        return int(self.first[piece]), int(self.first[piece + 1])

    def __iter__(self) -> Iterator[list[int]]:
        while True:
            for lane in (self.lanes[:, 0] == self.lanes[:, 1]).nonzero().flatten().tolist():
                self.lanes[lane] = torch.tensor(self._next_piece())
            indices = self.lanes[self.rows, 0].tolist()
            self.lanes[:, 0] += 1  # before the yield: the state is that of the next batch
            yield indices

    def state(self) -> dict[str, torch.Tensor]:
        """The position, as tensors."""
        queue = torch.tensor(self.queue, dtype=torch.int64)
        return {"lanes": self.lanes.clone(), "queue": queue, "generator": self.generator.get_state()}

    def _known(self, lanes: torch.Tensor, queue: Sequence[int]) -> bool:
        """Whether lanes and queue are within the pieces."""
        ends = set(self.first[1:].tolist())
        inside = all(0 <= now <= end and end in ends for now, end in lanes.tolist())
        return inside and all(piece in range(len(self.first) - 1) for piece in queue)

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Go on where `state()` was taken, over the same pieces; ValueError where they are others."""
        lanes, queue = state["lanes"].clone(), state["queue"].tolist()
        if lanes.shape != self.lanes.shape or lanes.dtype != self.lanes.dtype or not self._known(lanes, queue):
            raise ValueError("the sampler's lanes are of another corpus")
        self.lanes, self.queue = lanes, queue
        self.generator.set_state(state["generator"])


def collate(windows: list[Batch]) -> Batch:
    """Stack windows to a batch."""
    return Batch(*(torch.stack(tensors) for tensors in zip(*windows, strict=True)))


def training_batches(dataset: AudioDataset, sampler: RowSampler) -> Iterator[Batch]:
    """Batches without end, one window of every lane (of the sampler's rows) each."""
    own = torch.Generator()  # DataLoader draws a seed for its workers, which must not disturb the training's randomness
    return iter(DataLoader(dataset, batch_size=None, sampler=sampler, generator=own))


def validation_batches(dataset: AudioDataset, frames: int, rows: slice = slice(None)) -> list[list[Batch]]:
    """The beginnings of all pieces, side by side: about `frames` steps in all, at least one window of each.

    Returns runs of consecutive windows, as many pieces a run as fit 64 lanes; a run begins with a fresh state. `rows`
    chooses among the lanes of each run.
    """
    if not dataset.pieces:
        return []
    least = max(1, frames // dataset.window // len(dataset.pieces))
    runs = []
    for first in range(0, len(dataset.pieces), 64):
        group = range(first, min(first + 64, len(dataset.pieces)))[rows]
        run = []
        for n in range(min(least, max((dataset.windows[p] for p in group), default=0))):
            windows = [dataset[int(dataset.first_window[p]) + min(n, dataset.windows[p] - 1)] for p in group]
            heard = [w._replace(mask=w.mask & (n < dataset.windows[p])) for w, p in zip(windows, group, strict=True)]
            run.append(collate(heard))
        if run:
            runs.append(run)
    return runs
