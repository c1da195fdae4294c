"""Cut encoded pieces into windows, and lay the windows on the rows of training batches.

A window is T steps of one piece, with the target shifted by one step; it never reaches into another piece. Row `b` of
batch `n + 1` continues where row `b` of batch `n` ended, so that a recurrent state can be carried along:

    row 0:  [piece 4, window 0] [piece 4, window 1] [piece 4, window 2] [piece 9, window 0] ...
    row 1:  [piece 7, window 5] [piece 7, window 6] [piece 2, window 0] [piece 2, window 1] ...
                                                     ^ a window at the start of a piece: the state is reset
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Generic, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from continuo.audio.piece import Piece
from continuo.symbolic.song import Song
from continuo.system import cache
from continuo.system.workers import WORKERS, ordered_map
from featurizer import Featurizer, P

VALIDATION_ROWS = 64  # pieces of held-out music processed together


class Batch(NamedTuple):
    """Windows of B batch rows."""

    inputs: Tensor  # steps, `(B, T, L)` int64 or `(B, T, F)` float32
    targets: Tensor  # the step after each input, of the same shape
    ends: Tensor  # true after the last step of a piece, where there is no target, `(B, T)` bool
    mask: Tensor  # false for padding after a piece, `(B, T)` bool
    is_start: Tensor  # true for a window at the start of a piece, `(B,)` bool

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))


class AudioDataset(Dataset[Batch], Generic[P]):
    """Encode pieces, and give their windows by number.

    Every step is an input once and a target once; the first step of a piece is only an input. After the last step comes
    the end of the piece, unless the piece was cut there. Codes are encoded once, into a file, and continuous frames
    when a window is read: memory does not grow with the hours of music. `window` is T, steps per window. Pieces of
    fewer than two steps are `skipped`, with the reason. `advance` is called with the number of pieces done.
    """

    def __init__(
        self,
        pieces: Sequence[P],
        featurizer: Featurizer[P],
        window: int,
        advance: Callable[[int], None] = lambda done: None,
    ) -> None:
        self.featurizer: Featurizer[P] = featurizer
        self.window = window
        self.codes: CodeFile | None = None
        if featurizer.spec.continuous:
            steps = [featurizer.steps(piece) for piece in pieces]
        else:
            self.codes, steps = CodeFile(featurizer.spec.vocabulary), []
            encode = partial(encode_cached, featurizer=featurizer, fingerprint=featurizer.fingerprint())
            workers = WORKERS if featurizer.modality == "sound" else 1  # encoding notes holds the interpreter lock
            with closing(ordered_map(encode, pieces, workers)) as streams:
                for done, stream in enumerate(streams, start=1):
                    steps.append(len(stream))
                    if len(stream) >= 2:
                        self.codes.append(stream)
                    advance(done)
        self.skipped = [(p.id, "shorter than two steps") for p, n in zip(pieces, steps, strict=True) if n < 2]
        self.pieces: list[P] = [piece for piece, count in zip(pieces, steps, strict=True) if count >= 2]
        self.steps = [count for count in steps if count >= 2]
        targets = [count - (not piece.has_ending) for piece, count in zip(self.pieces, self.steps, strict=True)]
        self.windows = [-(-count // window) for count in targets]  # rounded up: the last window may be short
        self.first_window = _offsets(self.windows)

    def __len__(self) -> int:
        return int(self.first_window[-1])

    def counts(self) -> Tensor | None:
        """Return how often each code occurs, `(L, V)` float32; None for a continuous stream."""
        return None if self.codes is None else torch.from_numpy(self.codes.counts).float()

    def locate(self, index: int) -> tuple[int, int]:
        """Return the piece of a window and the step at which the window starts."""
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        piece = int(np.searchsorted(self.first_window, index, side="right")) - 1
        return piece, int(index - self.first_window[piece]) * self.window

    def read(self, piece: int, start: int, stop: int) -> Tensor:
        """Return steps `start` to `stop` of a piece, or to its end, `(T, L)` int64 or `(T, F)` float32."""
        if self.codes is not None:
            return torch.from_numpy(self.codes.read(piece, start, stop).astype(np.int64))
        return self.featurizer.encode(self.pieces[piece], start, min(stop, self.steps[piece]))

    def __getitem__(self, index: int | list[int]) -> Batch:
        """Return the windows of a list as a batch, or one window without the batch axis."""
        if isinstance(index, int):
            return Batch(*(tensor[0] for tensor in self[[index]]))
        places = [self.locate(i) for i in index]
        rows = [self.read(piece, start, start + self.window + 1) for piece, start in places]
        steps = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # (B, at most T + 1, L or F)
        steps = F.pad(steps, (0, 0, 0, self.window + 1 - steps.shape[1]))
        starts = torch.tensor([start for _, start in places])[:, None]
        last = torch.tensor([self.steps[piece] for piece, _ in places])[:, None]
        has_ending = torch.tensor([self.pieces[piece].has_ending for piece, _ in places])[:, None]
        target_steps = starts + torch.arange(1, self.window + 1)  # (B, T)
        ends = (target_steps == last) & has_ending
        mask = (target_steps < last) | ends
        return Batch(steps[:, :-1].contiguous(), steps[:, 1:].contiguous(), ends, mask, starts[:, 0] == 0)


class CodeFile:
    """Store streams of codes (1.4 MB for an hour of audio) in a temporary file that is deleted with this object."""

    def __init__(self, vocabulary: Sequence[int]) -> None:
        cache.folder().mkdir(parents=True, exist_ok=True)
        self.file = tempfile.TemporaryFile(dir=cache.folder())  # noqa: SIM115, it is open as long as this object lives
        self.counts = np.zeros((len(vocabulary), max(vocabulary)))  # how often each code occurs
        self.dtype = np.dtype(code_dtype(vocabulary))
        self.first_row = [0]  # row at which each stream starts, and the end of the last stream

    def append(self, stream: np.ndarray) -> None:
        """Add a stream `(T, L)`."""
        for level, column in enumerate(stream.T):
            self.counts[level] += np.bincount(column, minlength=self.counts.shape[1])
        self.file.write(stream.astype(self.dtype).tobytes())
        self.file.flush()
        self.first_row.append(self.first_row[-1] + len(stream))

    def read(self, stream: int, start: int, stop: int) -> np.ndarray:
        """Return steps `start` to `stop` of a stream, or to its end, `(T, L)`."""
        first, last = (min(self.first_row[stream] + row, self.first_row[stream + 1]) for row in (start, stop))
        row_bytes = len(self.counts) * self.dtype.itemsize
        data = os.pread(self.file.fileno(), (last - first) * row_bytes, first * row_bytes)
        return np.frombuffer(data, self.dtype).reshape(-1, len(self.counts))


def code_dtype(vocabulary: Sequence[int]) -> type[np.signedinteger]:
    """Return int16 if it holds every code of the vocabulary, else int32."""
    return np.int16 if max(vocabulary) <= 2**15 else np.int32


def encode_cached(piece: P, featurizer: Featurizer[P], fingerprint: str) -> np.ndarray:
    """Return the codes of a piece, `(T, L)` int16 or int32, from the cache if they are there."""
    key = cache.key_of_values("codes", piece.key, fingerprint)
    codes = cache.get_array(key) if piece.key else None
    if codes is None or not _are_codes(codes, featurizer.spec.vocabulary):
        codes = featurizer.encode(piece).numpy().astype(code_dtype(featurizer.spec.vocabulary))
        if piece.key:
            cache.put_array(key, codes)
    return codes


def _are_codes(array: np.ndarray, vocabulary: Sequence[int]) -> bool:
    fits = array.dtype == code_dtype(vocabulary) and array.ndim == 2 and array.shape[1] == len(vocabulary)
    return fits and bool((array >= 0).all() and (array < np.array(vocabulary)).all())


def _offsets(counts: Sequence[int]) -> np.ndarray:
    """Return the sum of all counts before each one, and of all."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


class RowSampler(Sampler[list[int]]):
    """Give the windows of one batch after another, without end; each epoch has the pieces in a new order.

    Every batch row starts at a random window of its first piece, so that rows do not reach the ends of pieces together;
    later pieces are played whole. `windows`: their number in each piece. `own_rows`: rows whose windows are given; the
    state is always that of all rows.
    """

    def __init__(self, windows: Sequence[int], batch_size: int, seed: int, own_rows: slice = slice(None)) -> None:
        if not windows:
            raise ValueError("there is no piece of at least two steps to train on: add recordings")
        self.own_rows, self.first_window = own_rows, _offsets(windows)
        self.generator = torch.Generator().manual_seed(seed)
        self.queue: list[int] = []
        # (B, 2): the next window of each row, and the end of its piece
        self.positions = torch.tensor([self._next_piece() for _ in range(batch_size)])
        entry = torch.rand(batch_size, generator=self.generator, dtype=torch.float64)
        self.positions[:, 0] += (entry * (self.positions[:, 1] - self.positions[:, 0])).long()

    def _next_piece(self) -> tuple[int, int]:
        if not self.queue:
            self.queue = torch.randperm(len(self.first_window) - 1, generator=self.generator).tolist()
        piece = self.queue.pop()
        return int(self.first_window[piece]), int(self.first_window[piece + 1])

    def __iter__(self) -> Iterator[list[int]]:
        while True:
            for row in (self.positions[:, 0] == self.positions[:, 1]).nonzero().flatten().tolist():
                self.positions[row] = torch.tensor(self._next_piece())
            indices = self.positions[self.own_rows, 0].tolist()
            self.positions[:, 0] += 1  # before the yield, so that `state()` is that of the next batch
            yield indices

    def state(self) -> dict[str, Tensor]:
        """Return the position as tensors."""
        queue = torch.tensor(self.queue, dtype=torch.int64)
        return {"lanes": self.positions.clone(), "queue": queue, "generator": self.generator.get_state()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from a `state()`; ValueError: it is of other pieces or of another batch size."""
        positions, queue = state["lanes"].clone(), state["queue"].tolist()
        fits = positions.shape == self.positions.shape and positions.dtype == self.positions.dtype
        ends, pieces = set(self.first_window[1:].tolist()), range(len(self.first_window) - 1)
        fits = fits and all(0 <= window <= end and end in ends for window, end in positions.tolist())
        if not (fits and all(piece in pieces for piece in queue)):
            raise ValueError("the sampler's positions are those of another corpus")
        self.positions, self.queue = positions, queue
        self.generator.set_state(state["generator"])


def training_batches(dataset: Dataset[Batch], sampler: RowSampler) -> Iterator[Batch]:
    """Return an endless iterator over batches: the next window of each batch row that this process computes."""
    own = torch.Generator()  # DataLoader draws a seed for its workers, which must not change the training's randomness
    return iter(DataLoader(dataset, batch_size=None, sampler=sampler, generator=own))


def validation_batches(
    dataset: AudioDataset[Piece] | AudioDataset[Song], steps: int, own_rows: slice = slice(None)
) -> list[list[Batch]]:
    """Return the beginnings of all pieces in runs of consecutive windows; a run starts with a fresh state.

    They have about `steps` steps in all; every piece has at least one window. `own_rows`: of the (at most 64) rows.
    """
    windows_each, runs = max(1, steps // dataset.window // max(1, len(dataset.pieces))), []
    for first in range(0, len(dataset.pieces), VALIDATION_ROWS):
        pieces = range(first, min(first + VALIDATION_ROWS, len(dataset.pieces)))[own_rows]
        run = []
        for n in range(min(windows_each, max((dataset.windows[p] for p in pieces), default=0))):
            windows = [dataset[int(dataset.first_window[p]) + min(n, dataset.windows[p] - 1)] for p in pieces]
            masked = [w._replace(mask=w.mask & (n < dataset.windows[p])) for w, p in zip(windows, pieces, strict=True)]
            run.append(default_collate(masked))
        if run:
            runs.append(run)
    return runs
