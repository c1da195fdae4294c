"""The transform and its inverse, and frames to audio and back: physical identities."""

import math

import numpy as np
import pytest
import torch
from conftest import RATE_HZ, melody
from hypothesis import given, settings
from hypothesis import strategies as st

from continuo.audio import codebook, postfilter
from continuo.audio.codec import SpectralCodec
from continuo.audio.phase import invert
from continuo.audio.piece import Piece
from continuo.audio.stft import (
    OverlapAdd,
    check_hop,
    from_frames,
    inverse,
    mel_filters,
    overlapped_power,
    share_of_earlier,
    spectrum,
    to_frames,
)
from continuo.model.metadata import CodebookSection, SpectrumSection
from continuo.symbolic.chords import ChordCodec
from featurizer import CodebookFeaturizer, SpectrumFeaturizer

SIGNALS = {
    "noise": np.random.default_rng(0).standard_normal(12_345).astype(np.float32) * 0.1,
    "sines": sum(np.sin(2 * np.pi * hz * np.arange(9001) / RATE_HZ) * 0.1 for hz in (110, 441.3, 2000.7)),
    "music": melody(5),
    "impulse": np.eye(1, 3000, 1234)[0],
}


def featurizer(n_fft: int, hop: int) -> SpectrumFeaturizer:
    return SpectrumFeaturizer(SpectrumSection.model_construct(kind="spectrum", n_fft=n_fft, hop=hop), RATE_HZ)


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize(
    ("n_fft", "hop"), [(1536, 384), (1024, 256), (512, 512 // 2), (256, 100), (300, 7), (1024, 800)]
)
def test_A02_encode_is_inverted_exactly_by_decode(name, n_fft, hop):
    piece = Piece.from_samples(SIGNALS[name], RATE_HZ)
    original = piece.read(0, len(piece.samples))
    f = featurizer(n_fft, hop)
    frames = f.encode(piece)
    assert frames.shape == (1 + math.ceil(len(original) / hop), n_fft + 2)
    assert (frames[:, : n_fft // 2 + 1] >= 0).all()
    audio = f.decode(frames)[: len(original)]
    assert np.abs(audio - original).max() < 1e-5 * max(1.0, np.abs(original).max())


@settings(deadline=None, max_examples=40)
@given(st.integers(8, 200), st.floats(0.01, 0.8), st.integers(1, 2000))
def test_A02_encode_any_allowed_hop_is_inverted_exactly(half, share, samples):
    n_fft = 2 * half
    hop = max(1, int(share * n_fft))
    audio = np.random.default_rng(samples).standard_normal(samples).astype(np.float32)
    piece = Piece("x", "x", RATE_HZ, audio, -23.0)
    f = featurizer(n_fft, hop)
    assert np.abs(f.decode(f.encode(piece))[:samples] - audio).max() < 1e-5 * max(1, np.abs(audio).max())


@pytest.mark.parametrize(("n_fft", "hop"), [(512, 0), (512, -1), (512, 512), (512, 470), (511, 128), (2, 1)])
def test_A02_check_hop_refuses_other_hops(n_fft, hop):
    with pytest.raises(ValueError, match=r"hop|n_fft"):
        check_hop(n_fft, hop)


def test_A02_check_hop_allows_hops_as_far_as_windows_overlap():
    check_hop(4, 1)
    check_hop(512, 1)
    for n_fft in (4, 16, 100, 512, 1536):
        widest = max(hop for hop in range(1, n_fft) if overlapped_power(n_fft, hop).min() >= 0.01)
        check_hop(n_fft, widest)
        assert 0.8 * n_fft <= widest + 1 <= 0.9 * n_fft + 1
        for hop in (0, widest + 1, n_fft):
            words = f"^hop {hop} does not suit n_fft {n_fft}: choose 1 to {int(0.8 * n_fft)} samples, best n_fft / 4$"
            with pytest.raises(ValueError, match=words):
                check_hop(n_fft, hop)
    for n_fft in (2, 0, -4, 5, 511):
        with pytest.raises(ValueError, match=f"^n_fft must be even and at least 4, not {n_fft}$"):
            check_hop(n_fft, 1)


@pytest.mark.parametrize(("n_fft", "hop"), [(16, 4), (16, 5), (16, 13), (30, 7)])
def test_overlapped_power_is_the_sum_of_squared_windows(n_fft, hop):
    """Frame by frame, laid on one long line."""
    squared = np.sin(np.pi * np.arange(n_fft) / n_fft) ** 4
    line = np.zeros(20 * n_fft)
    for start in range(0, len(line) - n_fft + 1, hop):
        line[start : start + n_fft] += squared
    steady = 8 * n_fft // hop * hop
    power = overlapped_power(n_fft, hop)
    assert power.dtype == np.float64
    np.testing.assert_allclose(power, line[steady : steady + hop], atol=1e-12)
    np.testing.assert_allclose(power.sum(), squared.sum())
    past = np.zeros(5 * n_fft)
    for end in range(len(past), n_fft - 1, -hop):
        past[end - n_fft : end] += squared
    earlier = share_of_earlier(n_fft, hop)
    assert earlier.dtype == np.float64
    np.testing.assert_allclose(earlier, past[len(past) - (n_fft - hop) :], atol=1e-12)


def test_frames_cover_the_last_sample():
    f = SpectrumFeaturizer(SpectrumSection(kind="spectrum", n_fft=16, hop=4), RATE_HZ)
    pieces = [Piece("p", "p", RATE_HZ, np.zeros(samples, np.float32), -23.0) for samples in (0, 1, 4, 5, 8)]
    assert [f.steps(piece) for piece in pieces] == [1, 2, 2, 3, 3]


def test_hann_is_the_periodic_window():
    np.testing.assert_allclose(torch.hann_window(8).numpy(), np.sin(np.pi * np.arange(8) / 8) ** 2, atol=1e-7)


def test_spectrum_is_the_windowed_transform_and_inverse_gives_the_audio_back():
    audio = SIGNALS["noise"][:1000]
    padded = np.pad(audio, 32)
    frames = spectrum(padded, 64, 24)
    assert frames.dtype == torch.complex64
    assert frames.shape == (42, 33)
    for t in (0, 7, 41):
        expected = np.fft.rfft(padded[t * 24 : t * 24 + 64] * torch.hann_window(64).numpy())
        np.testing.assert_allclose(frames[t].numpy(), expected, atol=1e-5)
    torch.testing.assert_close(spectrum(padded.astype(np.float64), 64, 24), frames)
    made = inverse(frames, 64, 24)
    assert made.shape == (41 * 24,)
    np.testing.assert_allclose(made, audio[: 41 * 24], atol=1e-6)


def test_from_frames_accepts_half_precision():
    z = torch.polar(torch.rand(4, 5) + 0.1, torch.rand(4, 5) * 6 - 3)
    torch.testing.assert_close(from_frames(to_frames(z).half()), z, rtol=0, atol=5e-3)
    assert to_frames(z).shape == (4, 10)
    assert from_frames(to_frames(z)[None])[0].shape == (4, 5)


def test_mel_filters_are_triangles_that_add_up_to_one():
    bins_hz = np.linspace(0, 12_000, 3001)
    filters = mel_filters(bins_hz, 20)
    assert filters.shape == (20, 3001)
    assert filters.min() == 0
    peaks_hz = bins_hz[filters.argmax(-1)]
    mel = 2595 * np.log10(1 + peaks_hz / 700)
    mel_40, mel_8000 = 2595 * np.log10(1 + np.array([40, 8000]) / 700)
    np.testing.assert_allclose(mel, np.linspace(mel_40, mel_8000, 22)[1:-1], atol=4)
    assert (filters.max(-1) > 0.9).all()
    inside = (bins_hz > peaks_hz[0]) & (bins_hz < peaks_hz[-1])
    np.testing.assert_allclose(filters[:, inside].sum(0), 1, atol=0.01)
    assert filters[:, (bins_hz <= 40) | (bins_hz >= 8000)].max() < 1e-9
    assert (filters[0, (bins_hz > 41) & (bins_hz < peaks_hz[0])] > 0).all()
    narrow = mel_filters(np.linspace(0, 4000, 1001), 10, low_hz=100, high_hz=2000)
    np.testing.assert_allclose(np.flatnonzero(narrow.sum(0))[[0, -1]] * 4, [104, 1996], atol=5)
    low = mel_filters(np.linspace(0, 4000, 1001), 10)  # the highest bin ends the last triangle
    assert low[-1, -2] > 0
    assert low[-1, -1] < 1e-9


def test_overlap_add_begins_with_silence_and_ends_empty():
    frames = spectrum(SIGNALS["noise"][:640], 64, 16).numpy()
    overlap = OverlapAdd(64, 16)
    assert (overlap.n_fft, overlap.hop) == (64, 16)
    first = [*map(overlap.push, frames), overlap.finish()]
    assert [len(block) for block in first] == [16] * 37 + [48]
    assert all(block.dtype == np.float32 for block in first)
    again = [*map(overlap.push, frames), overlap.finish()]
    np.testing.assert_array_equal(np.concatenate(first), np.concatenate(again))
    assert not overlap.finish().any()
    whole = np.concatenate(first)
    np.testing.assert_allclose(whole[48:592], SIGNALS["noise"][48:592], atol=1e-6)  # under four windows
    windows = np.sin(np.pi * np.arange(64) / 64) ** 4
    faded = SIGNALS["noise"][:16] * windows[:16] / overlapped_power(64, 16)
    np.testing.assert_allclose(whole[:16], faded, atol=1e-6)
    with pytest.raises(ValueError, match="hop 60"):
        OverlapAdd(64, 60)


def test_A02_spectrum_of_a_sine_has_its_amplitude():
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(8000) / RATE_HZ)
    frames = spectrum(tone, 512, 128)
    assert frames.abs().max().item() == pytest.approx(0.5 * torch.hann_window(512).sum().item() / 2, rel=1e-4)


def test_to_frames_is_magnitude_then_phase():
    z = torch.polar(torch.rand(4, 5) + 0.1, torch.rand(4, 5) * 6 - 3)
    torch.testing.assert_close(from_frames(to_frames(z)), z)
    torch.testing.assert_close(to_frames(z)[:, 5:], z.angle())


def test_encode_part_of_a_piece_equals_part_of_the_whole():
    piece = Piece.from_samples(melody(1), RATE_HZ)
    f = featurizer(256, 64)
    whole = f.encode(piece)
    part = f.encode(piece, 17, 40)
    torch.testing.assert_close(part[:, :129], whole[17:40, :129])
    torch.testing.assert_close(from_frames(part), from_frames(whole[17:40]))


@pytest.mark.parametrize(("n_fft", "hop"), [(512, 128), (256, 100), (256, 128)])
def test_A09_overlap_add_of_true_frames_continues_real_audio_exactly(n_fft, hop):
    """True frames after a true tail reproduce the audio itself, across the join."""
    audio = melody(3)
    join = 8000
    later = [audio[join - n_fft + j * hop : join + j * hop] for j in range(1, 40)]
    frames = [np.fft.rfft(window * torch.hann_window(n_fft).numpy()) for window in later]
    overlap = OverlapAdd(n_fft, hop, audio[join - n_fft : join])
    made = np.concatenate([*map(overlap.push, frames), overlap.finish()])
    assert len(made) == 39 * hop + n_fft - hop
    start = join - (n_fft - hop)
    whole = 39 * hop  # afterwards the stream fades out
    np.testing.assert_allclose(made[:whole], audio[start : start + whole], atol=1e-6)
    assert np.abs(made[-8:]).max() < 1e-3


def test_encode_prompt_last_frame_ends_with_the_prompt():
    audio = melody(2)[:5003]
    piece = Piece.from_samples(audio, RATE_HZ)
    f = featurizer(256, 64)
    stream = f.encode_prompt(piece)
    last = np.fft.rfft(piece.read(5003 - 256, 5003) * torch.hann_window(256).numpy())
    np.testing.assert_allclose(from_frames(stream)[-1].numpy(), last, atol=1e-4)
    assert len(stream) == 1 + (5003 - 256) // 64
    with pytest.raises(ValueError, match="too short"):
        f.encode_prompt(Piece.from_samples(audio[:255], RATE_HZ))


def small_codebook(**keys) -> CodebookFeaturizer:
    values = {"components": 32, "levels": 4, "centroids": 64, "fit_frames": 1500, "postfilter_steps": 8} | keys
    f = CodebookFeaturizer(CodebookSection(kind="codebook", n_fft=256, hop=64, **values), RATE_HZ)
    f.fit([Piece.from_samples(melody(seed), RATE_HZ) for seed in range(4)], seed=0, advance=lambda words: None)
    return f


def test_encode_codes_approximate_the_spectrum():
    f = small_codebook()
    piece = Piece.from_samples(melody(9), RATE_HZ)
    codes = f.encode(piece)
    assert codes.dtype == torch.int64
    assert codes.shape == (f.steps(piece), 4)
    assert codes.min() >= 0
    assert codes.max() < 64
    frames = spectrum(piece.read(-128, 64 * (len(codes) - 1) + 128), 256, 64)
    log = f.codec.vectors(frames)
    error = [(f.codec.codebook.reconstruct(f.codec.codebook.dequantize(codes)) - log).square().mean().sqrt().item()]
    mean_only = (log - f.codec.codebook.mean).square().mean().sqrt().item()
    assert error[0] < 0.4 * mean_only
    assert f.codec.decode(codes).shape == (len(codes), 129)
    assert (f.codec.decode(codes) >= 0).all()


@pytest.mark.slow
def test_postfilter_reduces_error_and_flicker_on_held_out_pieces():
    """Compare the error of frames and the movement of the audio they make; an unfitted post-filter changes nothing."""
    section = CodebookSection(kind="codebook", n_fft=256, hop=64, components=32, levels=2, centroids=64)
    pieces = [Piece.from_samples(melody(seed, seconds=12.0), RATE_HZ) for seed in range(8)]
    unseen = [Piece.from_samples(melody(seed, seconds=6.0), RATE_HZ) for seed in range(9, 15)]
    made = {}
    for steps in (0, 400):
        f = CodebookFeaturizer(section.model_copy(update={"postfilter_steps": steps}), RATE_HZ)
        f.fit(pieces, seed=0, advance=lambda words: None)
        for k, piece in enumerate(unseen):
            codes = f.encode(piece)
            truth = f.codec.vectors(spectrum(piece.read(-128, 64 * (len(codes) - 1) + 128), 256, 64))
            log = (f.codec.decode(codes) / f.codec.full_scale + f.section.floor).log() * f.codec.weight
            remade = f.codec.vectors(spectrum(invert(f.codec.decode(codes).numpy(), 256, 64), 256, 64))
            moved = [v[4:-4].diff(dim=0).abs().mean(0) for v in (remade, truth)]
            made[steps, k] = (log - truth).square().mean().item(), (moved[0] - moved[1]).abs().mean().item()
            if steps == 0:
                dequantize = f.codec.codebook.reconstruct(f.codec.codebook.dequantize(codes))
                audible = dequantize / f.codec.weight > np.log(
                    2 * f.section.floor
                )  # below the floor none would be positive
                torch.testing.assert_close(log[audible], dequantize[audible], atol=1e-3, rtol=1e-3)
    for k in range(len(unseen)):
        assert made[400, k][0] < 0.85 * made[0, k][0]
        assert made[400, k][1] < 0.9 * made[0, k][1]


def test_postfilter_fit_without_gain_adds_nothing_and_keeps_the_random_state():
    """The training runs are all too loud and the held-out ones are right, so what was learned would harm."""
    generator = torch.Generator().manual_seed(0)
    real, quantized = (torch.randn(24, 32, width, generator=generator) for width in (129, 4))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    for all_loud, is_zero in [(False, True), (True, False)]:
        dequantize = real + 1
        if not all_loud:
            dequantize[::8] = real[::8]
        bins_hz = np.linspace(0, 4000, 129)
        runs = postfilter.Runs(quantized, dequantize, real, torch.zeros_like(real))
        loss = postfilter.PostfilterLoss(runs, torch.ones(129), bins_hz=bins_hz, floor=4e-4, n_fft=256, hop=64)
        model = postfilter.fit(runs, loss, steps=20, seed=0)
        added = model(postfilter.pad_edges(quantized))
        assert added.shape == real.shape
        assert (added == 0).all() == is_zero
    assert torch.equal(torch.rand(3), expected)
    one = postfilter.Runs(*(rows[:1] for rows in (quantized, dequantize, real, real)))
    alone = postfilter.fit(one, loss, steps=20, seed=0)
    assert (alone(postfilter.pad_edges(quantized)) == 0).all()  # a single run: nothing to learn from


def test_reanalysis_keeps_consistent_magnitudes_and_reduces_flicker():
    audio = torch.from_numpy(melody(3))[: 256 + 31 * 64]
    frames = torch.stft(audio, 256, 64, window=torch.hann_window(256), center=False, return_complex=True).T[None]
    overlap = postfilter.Reanalysis(256, 64, 32)
    assert overlap.frames == 26
    remade = overlap.magnitudes(frames.abs(), frames.angle())
    error = (remade - frames.abs()[:, overlap.inner]).norm(dim=-1) / frames.abs()[:, overlap.inner].norm(dim=-1)
    assert error.max() < 0.02  # the run's own edges reach a little inside
    assert error[:, 6:-6].max() < 1e-4
    flicker = 1 + 0.3 * (torch.arange(32) % 2 * 2 - 1)[:, None]
    moved = (overlap.magnitudes(frames.abs() * flicker, frames.angle()) - remade).norm()
    assert moved < 0.5 * (0.3 * frames.abs()[:, overlap.inner]).norm()


def test_decoder_magnitudes_step_by_step_equal_those_of_the_whole():
    f = small_codebook(postfilter_steps=4)
    codes = f.encode(Piece.from_samples(melody(9), RATE_HZ))[:20]
    whole = f.codec.decode(codes)
    decoder = f.decoder()
    made: list[np.ndarray] = []
    keep = decoder.phase.push
    decoder.phase.push = lambda magnitude: (made.append(magnitude), keep(magnitude))[1]
    for step in codes:
        decoder.push(step)
    decoder.finish()
    np.testing.assert_allclose(np.array(made), whole.numpy(), rtol=1e-4, atol=1e-4)


def test_decoder_starts_from_the_last_frames_of_the_prompt():
    f = small_codebook(postfilter_steps=4)
    piece = Piece.from_samples(melody(9), RATE_HZ)
    codes = f.encode_prompt(piece)
    recent = f.decoder(piece).recent
    assert torch.equal(recent, f.codec.codebook.dequantize(codes[-3:]))
    short = Piece.from_samples(melody(9)[:256], RATE_HZ)
    assert torch.equal(f.decoder(short).recent, f.codec.codebook.dequantize(f.encode_prompt(short)).expand(3, -1))


def test_fit_from_a_start_keeps_components_and_meanings():
    """Started from itself on the same frames, codes keep their meaning; the components stay."""
    f = small_codebook(postfilter_steps=1)
    pieces = [Piece.from_samples(melody(seed), RATE_HZ) for seed in range(4)]
    again = CodebookFeaturizer(f.section, RATE_HZ)
    again.fit(pieces, seed=0, advance=lambda words: None, start=f.state())
    assert torch.equal(again.codec.codebook.components, f.codec.codebook.components)
    same = (again.encode(pieces[0]) == f.encode(pieces[0]))[:, 0].float().mean()
    assert same > 0.7
    assert not torch.equal(again.codec.codebook.centroids, f.codec.codebook.centroids)


def test_load_state_gives_the_same_featurizer_back():
    f = small_codebook()
    piece = Piece.from_samples(melody(9), RATE_HZ)
    again = CodebookFeaturizer(f.section, RATE_HZ)
    again.load_state(f.state())
    assert torch.equal(again.encode(piece), f.encode(piece))
    assert torch.equal(again.codec.decode(f.encode(piece)), f.codec.decode(f.encode(piece)))
    assert again.spec.vocabulary == f.spec.vocabulary == (64,) * 4


def test_codec_round_trip_is_decode_after_encode_and_survives_to_dict():
    codec = small_codebook(postfilter_steps=4).codec
    frames = spectrum(Piece.from_samples(melody(9), RATE_HZ).read(0, 64 * 40), 256, 64)
    for name in ("vocabulary", "encode", "decode", "round_trip", "to_dict"):
        assert hasattr(codec, name)
        assert hasattr(ChordCodec(), name)
    expected = codec.decode(codec.encode(frames))
    assert torch.equal(codec.round_trip(frames), expected)
    again = SpectralCodec(codec.settings)
    again.load_dict(codec.to_dict())
    assert torch.equal(again.round_trip(frames), expected)
    assert again.vocabulary == codec.vocabulary == (64,) * 4


def test_fit_is_seeded_and_bounded():
    a, b = small_codebook(fit_frames=300), small_codebook(fit_frames=300)
    assert torch.equal(a.codec.codebook.centroids, b.codec.codebook.centroids)
    pieces = [Piece.from_samples(melody(seed), RATE_HZ) for seed in range(4)]
    assert sum(len(run) for run in a.sample(pieces, 300, seed=0)) <= 300
    assert sum(len(run) for run in a.sample(pieces, 10**6, seed=0)) == sum(a.steps(p) for p in pieces)


@pytest.mark.parametrize(("most", "levels_on"), [(400, 400), (10**6, None), (150, 150)])
def test_fit_uses_more_frames_for_levels_than_it_keeps_whole(monkeypatch, most, levels_on):
    monkeypatch.setattr("continuo.audio.codec.MAX_WHOLE_FRAMES", 200)
    fit, lengths = codebook.fit, []

    def counted(vectors, *, more_vectors, **how):
        every = None if more_vectors is None else list(more_vectors)
        lengths.extend([len(vectors), sum(map(len, [vectors] if every is None else every))])
        return fit(vectors, more_vectors=every, **how)

    monkeypatch.setattr(codebook, "fit", counted)
    pieces = [Piece.from_samples(melody(seed), RATE_HZ) for seed in range(4)]
    f = small_codebook(fit_frames=most)
    everything = sum(f.steps(piece) for piece in pieces)
    whole, levels = lengths
    assert whole <= min(most, 200)
    assert 0.8 * (levels_on or everything) < levels <= (levels_on or everything)


@pytest.mark.parametrize(("centroids", "steps"), [(64, 0), (64, 40), (4, 40)])
def test_phase_costs_has_one_cost_per_announced_phase(centroids, steps):
    """With plenty of frames per centroid, levels are not fitted to halves."""
    section = CodebookSection(
        kind="codebook", n_fft=256, hop=64, components=32, levels=3, centroids=centroids, postfilter_steps=steps
    )
    f, said = CodebookFeaturizer(section, RATE_HZ), []
    pieces = [Piece.from_samples(melody(seed), RATE_HZ) for seed in range(4)]
    f.fit(pieces, seed=0, advance=said.append)
    assert any("half" in words for words in said) == (steps > 0 and centroids == 64)
    assert len(said) <= len(f.phase_costs(pieces)) <= len(said) + 2


def test_fit_small_corpus_gives_fewer_centroids():
    """There are at least 64 centroids; a codebook that starts from another one has as many as that."""
    section = {"kind": "codebook", "n_fft": 256, "hop": 64, "components": 32, "centroids": 512, "postfilter_steps": 0}
    pieces = [Piece.from_samples(melody(seed), RATE_HZ) for seed in range(4)]
    fitted = []
    for frames_per_centroid, start in [(5, None), (1000, None), (1000, 0)]:
        f = CodebookFeaturizer(CodebookSection(**section, frames_per_centroid=frames_per_centroid), RATE_HZ)
        state = None if start is None else fitted[start].state()
        f.fit(pieces, seed=0, advance=lambda words: None, start=state)
        again = CodebookFeaturizer(f.section, RATE_HZ)
        again.load_state(f.state())
        assert again.spec.vocabulary == f.spec.vocabulary
        assert torch.equal(again.encode(pieces[0]), f.encode(pieces[0]))
        fitted.append(f)
    frames = sum(f.steps(piece) for piece in pieces)
    assert [f.spec.vocabulary[0] for f in fitted] == [frames // 5, 64, frames // 5]
    assert 64 < frames // 5 < 512
    for wrong in (torch.zeros(3, 513, 32), torch.zeros(3, 1, 32), torch.zeros(3, 0, 32), torch.zeros(())):
        with pytest.raises(ValueError, match="centroids is"):
            f.load_state(f.state() | {"centroids": wrong})


def test_fit_too_small_corpus_is_explained():
    f = CodebookFeaturizer(CodebookSection(kind="codebook", n_fft=256, hop=64, components=32, centroids=512), RATE_HZ)
    with pytest.raises(ValueError, match=r"too few for 512 centroids.*lower representation.centroids"):
        f.fit([Piece.from_samples(melody(0, seconds=1), RATE_HZ)], seed=0, advance=lambda words: None)


def test_A09_decoder_chunked_output_equals_whole():
    f = small_codebook()
    prompt, rest = Piece.from_samples(melody(7), RATE_HZ), f.encode(Piece.from_samples(melody(8), RATE_HZ))
    decoder = f.decoder(prompt)
    blocks = [decoder.push(step) for step in rest]
    streamed = np.concatenate([*blocks, decoder.finish()])
    assert len(streamed) == len(rest) * 64 + decoder.overlap_samples
    again = f.decoder(prompt)
    assert np.array_equal(streamed, np.concatenate([*(again.push(step) for step in rest), again.finish()]))
    assert sum(map(len, blocks[:20])) > 0  # the first ones come soon
    assert all(sum(map(len, blocks[first : first + 64])) == 64 * 64 for first in range(84, 180))  # a steady flow
