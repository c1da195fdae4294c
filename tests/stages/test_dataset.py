"""Test windows and batch rows: nothing crosses pieces, nothing is lost, nothing is stored twice."""

import os
import tracemalloc

import numpy as np
import pytest
import torch
from conftest import HOP, RATE_HZ, melody
from torch.utils.data import default_collate

from continuo.audio.piece import Piece
from continuo.codec.codec import RUN
from continuo.model.metadata import CodecSection, SpectrumSection
from dataset import AudioDataset, CodeFile, RowSampler, training_batches, validation_batches
from featurizer import CodecFeaturizer, SpectrumFeaturizer

SECONDS = (3.0, 1.1, 0.2, 2.0)


@pytest.fixture(scope="module")
def pieces() -> list[Piece]:
    made = [Piece.from_samples(melody(n, seconds), RATE_HZ, source=f"p{n}") for n, seconds in enumerate(SECONDS)]
    return [*made, Piece("empty", "empty", RATE_HZ, np.zeros(0, np.float32), -23.0)]


@pytest.fixture(scope="module")
def featurizer(pieces) -> CodecFeaturizer:
    f = CodecFeaturizer(CodecSection(kind="codec", adaptation_steps=0), RATE_HZ)
    f.fit(pieces[:4], seed=0)
    return f


def test_A03_every_step_is_once_an_input_and_once_a_target(pieces, featurizer):
    dataset = AudioDataset(pieces, featurizer, window=16)
    assert dataset.skipped == [("empty", "shorter than two steps")]
    for number, piece in enumerate(pieces[:4]):
        stream = featurizer.encode(piece)
        windows = [dataset[i] for i in range(len(dataset)) if dataset.locate(i)[0] == number]
        inputs = torch.cat([w.inputs[w.mask] for w in windows])
        targets = torch.cat([w.targets[w.mask & ~w.ends] for w in windows])
        assert torch.equal(inputs, stream)
        assert torch.equal(targets, stream[1:])
        ends = torch.cat([w.ends[w.mask] for w in windows])
        assert ends.tolist() == [False] * (len(stream) - 1) + [True]
        assert [bool(w.is_start) for w in windows] == [True] + [False] * (len(windows) - 1)


def test_dataset_cut_piece_has_no_end_event(pieces, featurizer):
    """Check pieces around a whole number of windows: an end is an event, a cut is none."""
    for steps in (16, 17, 18):
        whole = Piece.from_samples(melody(0)[: HOP * (steps - 1)], RATE_HZ)
        assert featurizer.steps(whole) == steps
        longer = Piece.from_samples(np.concatenate([whole.samples, whole.samples]), RATE_HZ)
        cut = longer.excerpt(0, len(whole.samples), "beginning")
        for piece, events in [(whole, steps), (cut, steps - 1)]:
            dataset = AudioDataset([piece], featurizer, window=16)
            windows = [dataset[i] for i in range(len(dataset))]
            assert len(windows) == -(-events // 16)
            assert sum(int(w.mask.sum()) for w in windows) == events
            assert sum(int(w.ends.sum()) for w in windows) == (events == steps)
        assert longer.excerpt(100, len(longer.samples), "end").has_ending


def test_A03_memory_holds_each_frame_once(pieces, featurizer):
    dataset = AudioDataset(pieces, featurizer, window=16)
    held = os.fstat(dataset.codes.file.fileno()).st_size
    assert held == sum(featurizer.steps(p) for p in pieces[:4]) * 3 * 2  # three levels of 16 bits
    small, large = AudioDataset(pieces, featurizer, window=2), AudioDataset(pieces, featurizer, window=500)
    assert [os.fstat(d.codes.file.fileno()).st_size for d in (small, large)] == [held, held]


def test_code_file_keeps_codes_out_of_memory():
    """Append two hours of codes without keeping them in memory, and read windows back, to the end of a stream."""
    made = [np.random.default_rng(n).integers(0, 1024, (225_000, 3)).astype(np.int16) for n in range(2)]
    tracemalloc.start()
    codes = CodeFile((1024, 1024, 1024))
    for stream in made:
        codes.append(stream)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 100_000 < made[0].nbytes
    for stream in (0, 1):
        for start, stop in [(0, 65), (224_990, 225_055), (225_000, 225_065)]:
            np.testing.assert_array_equal(codes.read(stream, start, stop), made[stream][start:stop])
    for level in range(3):
        expected = sum(np.bincount(stream[:, level], minlength=1024) for stream in made)
        np.testing.assert_array_equal(codes.counts[level], expected)


def test_dataset_batch_equals_its_single_windows(pieces, featurizer):
    dataset = AudioDataset(pieces, featurizer, window=16)
    order = [len(dataset) - 1, 0, 3, 3, len(dataset) // 2]
    together = dataset[order]
    for field, tensor in together._asdict().items():
        assert torch.equal(tensor, torch.stack([getattr(dataset[i], field) for i in order]))
        assert tensor.is_contiguous()


def test_dataset_any_number_of_workers_gives_the_same_codes(featurizer, monkeypatch):
    several = [Piece.from_samples(melody(n, 1 + n / 3), RATE_HZ) for n in range(7)]
    expected = [featurizer.encode(piece) for piece in several]
    for workers in (1, 2, 5):
        monkeypatch.setattr("dataset.WORKERS", workers)
        dataset = AudioDataset(several, featurizer, window=16)
        for piece, codes in enumerate(expected):
            assert torch.equal(dataset.read(piece, 0, len(codes)), codes)


def test_featurizer_sample_equals_runs_chosen_from_a_list_of_all(pieces):
    """Choose the same runs without the list, which would grow with the corpus; each run lies in its piece."""
    f = SpectrumFeaturizer(SpectrumSection(kind="spectrum", n_fft=256, hop=64), RATE_HZ)
    for frames in (10**6, 200):
        starts = [(p, start) for p, piece in enumerate(pieces) for start in range(0, f.steps(piece), RUN)]
        if frames < 10**6:
            chosen = np.random.default_rng(5).choice(len(starts), frames // RUN, replace=False)
            starts = [starts[i] for i in np.sort(chosen)]
        runs = list(f.sample(pieces, frames, seed=5))
        assert len(runs) == len(starts)
        for (p, start), run in zip(starts, runs, strict=True):
            whole = f.encode(pieces[p], start, min(start + RUN, f.steps(pieces[p])))
            torch.testing.assert_close(f.encode_frames(run), whole)


def test_featurizer_sample_of_a_longer_corpus_reads_no_more(featurizer, monkeypatch):
    """Read the same number of samples of a corpus that is four times as long."""
    pieces = [Piece.from_samples(melody(n, 20), RATE_HZ) for n in range(2)]
    read = []
    monkeypatch.setattr(Piece, "read", lambda self, start, stop: read.append(stop - start) or np.zeros(stop - start))
    for some in (pieces, pieces * 4):
        assert sum(len(run) for run in featurizer.sample(some, 600, seed=0)) <= 600
    assert sum(read[: len(read) // 2]) == pytest.approx(sum(read[len(read) // 2 :]), rel=0.1)


def test_A03_continuous_frames_are_read_from_the_audio_when_asked_for(pieces):
    f = SpectrumFeaturizer(SpectrumSection(kind="spectrum", n_fft=256, hop=64), RATE_HZ)
    dataset = AudioDataset(pieces, f, window=16)
    assert dataset.codes is None
    window = dataset[1]
    expected = f.encode(pieces[0])[16:33]
    torch.testing.assert_close(window.inputs[:, :129], expected[:-1, :129])
    torch.testing.assert_close(window.targets[:, :129], expected[1:, :129])


def test_dataset_window_out_of_range_is_refused(pieces, featurizer):
    dataset = AudioDataset(pieces, featurizer, window=16)
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_sampler_rows_continue_a_piece_or_start_another(pieces, featurizer):
    dataset = AudioDataset(pieces, featurizer, window=16)
    sampler = RowSampler(dataset.windows, batch_size=3, seed=0)
    batches = iter(sampler)
    before = next(batches)
    for _ in range(200):
        after = next(batches)
        for old, new in zip(before, after, strict=True):
            same_piece = dataset.locate(old)[0] == dataset.locate(new)[0] and new == old + 1
            assert same_piece or dataset[new].is_start
            assert same_piece or old + 1 in dataset.first_window  # the old piece was played to its end
        before = after


def test_sampler_plays_all_pieces_equally_often():
    sampler = RowSampler([5, 1, 3], batch_size=2, seed=1)
    batches = iter(sampler)
    starts = [index for _ in range(900) for index in next(batches) if index in (0, 5, 6)]
    counts = np.bincount(starts, minlength=7)[[0, 5, 6]]
    assert counts.max() - counts.min() <= 3


def test_sampler_rows_start_at_different_windows():
    sampler = RowSampler([100], batch_size=32, seed=0)
    assert len(set(next(iter(sampler)))) > 16


def test_sampler_restored_continues_exactly():
    sampler = RowSampler([5, 2, 9, 4], batch_size=3, seed=5)
    batches = iter(sampler)
    for _ in range(17):
        next(batches)
    state = sampler.state()
    expected = [next(batches) for _ in range(50)]
    other = RowSampler([5, 2, 9, 4], batch_size=3, seed=0)
    other.load_state(state)
    again = iter(other)
    assert [next(again) for _ in range(50)] == expected


def test_training_batches_leave_the_global_generator_alone(pieces, featurizer):
    dataset = AudioDataset(pieces, featurizer, window=16)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    batch = next(training_batches(dataset, RowSampler(dataset.windows, 2, 0)))
    assert batch.inputs.shape == (2, 16, 3)
    assert torch.equal(torch.rand(4), expected)


def test_validation_batches_cover_the_beginning_of_every_piece(pieces, featurizer):
    dataset = AudioDataset(pieces, featurizer, window=16)
    (run,) = validation_batches(dataset, steps=10**6)
    for n in range(4):
        inputs = torch.cat([batch.inputs[n][batch.mask[n]] for batch in run])
        assert torch.equal(inputs, featurizer.encode(pieces[n]))
    (short,) = validation_batches(dataset, steps=1)
    assert len(short) == 1
    assert torch.equal(short[0].inputs, default_collate([dataset[int(w)] for w in dataset.first_window[:-1]]).inputs)


def test_sampler_without_pieces_is_refused():
    with pytest.raises(ValueError, match="add recordings"):
        RowSampler([], batch_size=2, seed=0)


def test_piece_transposed_sounds_higher_and_reads_like_an_array():
    """Transpose a tone of 440 Hz: the peak of its spectrum moves, and excerpts equal the whole."""
    time = np.arange(2 * RATE_HZ) / RATE_HZ
    tone = Piece.from_samples(0.5 * np.sin(2 * np.pi * 440 * time), RATE_HZ)
    assert tone.transposed(0) is tone
    for semitones in (-3, 1, 3):
        other = tone.transposed(semitones)
        ratio = 2 ** (semitones / 12)
        assert len(other.samples) == pytest.approx(len(time) / ratio, rel=1e-3)
        whole = other.read(0, len(other.samples))
        peak_hz = np.argmax(np.abs(np.fft.rfft(whole))) * RATE_HZ / len(whole)
        assert peak_hz == pytest.approx(440 * ratio, abs=1)
        for start, stop in [(0, 100), (777, 3001), (len(whole) - 50, len(whole) + 20), (-30, 30)]:
            padded = np.pad(whole, (100, 100))[start + 100 : stop + 100]
            np.testing.assert_allclose(other.read(start, stop), padded, atol=1e-6)
        assert other.id != tone.id
    assert Piece("a", "a", RATE_HZ, tone.samples, -20.0, key="k").transposed(2).key == "k+2"
