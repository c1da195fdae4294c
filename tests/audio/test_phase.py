"""Phase reconstruction: identities of the frame grid first, then physics, then the odd signals."""

import heapq

import numpy as np
import pytest

from continuo.audio.phase import _REACH, PhaseStream, _sources, integrate_phases, invert
from continuo.audio.stft import OverlapAdd

GRIDS = [(1536, 384), (512, 128), (2048, 512), (1024, 256), (1024, 512), (1024, 300)]
RATE_HZ = 24_000


def hann(n_fft):
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)).astype(np.float32)


def frames_after(audio, join, n_fft, hop):
    """Complex frames that end at join + hop, join + 2 * hop, ...: (T, K)."""
    ends = range(join + hop, len(audio) + 1, hop)
    return np.stack([np.fft.rfft(audio[end - n_fft : end] * hann(n_fft)) for end in ends])


def harmonic(seconds=1.5, f0_hz=220.3):
    t = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    return sum(0.3 / k * np.sin(2 * np.pi * f0_hz * k * t) for k in range(1, 9)).astype(np.float32)


def streamed(stream, overlap, magnitude):
    """(samples, committed frames) of a whole run."""
    frames = np.concatenate([*(stream.push(m) for m in magnitude), stream.finish()])
    return np.concatenate([*map(overlap.push, frames), overlap.finish()]), frames


def continued(audio, n_fft, hop, join=RATE_HZ // 2, **tuning):
    """(prompt with its join blended, continuation, magnitudes, committed frames)."""
    magnitude = np.abs(frames_after(audio, join, n_fft, hop)).astype(np.float32)
    tail = audio[join - n_fft : join]
    out, frames = streamed(PhaseStream(n_fft, hop, tail=tail, **tuning), OverlapAdd(n_fft, hop, tail), magnitude)
    prompt = np.concatenate([audio[: join - (n_fft - hop)], out[: n_fft - hop]])
    return prompt, out[n_fft - hop :], magnitude, frames


def convergence(audio, magnitude, join, n_fft, hop):
    """Spectral convergence where all frames overlap: the last ones fade out by contract."""
    got = np.abs(frames_after(audio, join, n_fft, hop))[: -(n_fft // hop)]
    want = magnitude[: len(got)]
    return np.linalg.norm(got - want) / np.linalg.norm(want)


@pytest.mark.parametrize(("n_fft", "hop"), GRIDS)
@pytest.mark.parametrize("count", [0, 1, 2, 9])
@pytest.mark.parametrize(
    ("block", "look_ahead", "imagined"), [(1, 0, 0), (1, 1, 0), (4, 1, 0), (2, 3, 0), (1, 0, 2), (4, 1, 1)]
)
def test_stream_every_frame_gives_hop_samples(n_fft, hop, count, block, look_ahead, imagined):
    magnitude = np.random.default_rng(0).random((count, n_fft // 2 + 1), np.float32)
    for tail in (None, harmonic()[:n_fft]):
        tuning = {"block": block, "look_ahead": look_ahead, "imagined": imagined}
        stream = PhaseStream(n_fft, hop, tail=tail, passes=2, **tuning)
        out, frames = streamed(stream, OverlapAdd(n_fft, hop, tail), magnitude)
        assert out.shape == (n_fft - hop + count * hop,)
        assert out.dtype == np.float32
        assert frames.shape == magnitude.shape


@pytest.mark.parametrize(("n_fft", "hop"), GRIDS)
def test_stream_joined_audio_is_the_overlap_add_of_all_frames(n_fft, hop):
    audio = harmonic()
    join = RATE_HZ // 2
    prompt, out, magnitude, frames = continued(audio, n_fft, hop)
    np.testing.assert_allclose(np.abs(frames), magnitude, rtol=1e-4, atol=1e-4)
    window = hann(n_fft).astype(np.float64)
    total, weight = np.zeros(join + len(out)), np.zeros(join + len(out) + n_fft)
    for end in range(join, n_fft - 1, -hop):  # the prompt's true frames
        total[end - n_fft : end] += audio[end - n_fft : end] * window**2
    for j, frame in enumerate(frames, 1):
        end = join + j * hop
        total[end - n_fft : end] += np.fft.irfft(frame, n_fft) * window
    for end in range(join + (len(out) // hop + n_fft // hop) * hop, n_fft - 1, -hop):  # beyond the last one: a full sum
        weight[end - n_fft : end] += window**2
    inside = slice(2 * n_fft, join + len(out))
    joined = np.concatenate([prompt, out])
    np.testing.assert_allclose(joined[inside], total[inside] / weight[: len(total)][inside], atol=2e-5)


def test_stream_has_the_documented_latency_and_chunks_equal_the_whole():
    audio, n_fft, hop = harmonic(), 1536, 384
    tail = audio[-n_fft:]
    magnitude = np.abs(frames_after(audio, RATE_HZ // 2, n_fft, hop)).astype(np.float32)
    stream = PhaseStream(n_fft, hop, tail=tail)
    parts = [stream.push(m) for m in magnitude]
    sizes = [len(p) for p in parts]
    assert sizes[:6] == [0, 1, 1, 1, 1, 0]  # one frame is the look-ahead; frames across the join go one by one,
    assert sizes[6:38] == 2 * [*[0] * 14, 16, 0]  # then sixteen together
    held = [p.copy() for p in parts]
    rest = stream.finish()
    assert all(np.array_equal(a, b) for a, b in zip(held, parts, strict=True))  # handed out means final
    overlap = OverlapAdd(n_fft, hop, tail)
    frames = np.concatenate([*parts, rest])
    audio = np.concatenate([*map(overlap.push, frames), overlap.finish()])
    assert audio.tobytes() == invert(magnitude, n_fft, hop, tail).tobytes()


def test_stream_future_frames_never_change_output():
    magnitude = np.random.default_rng(1).random((30, 257), np.float32)
    other = magnitude.copy()
    other[20:] = 0
    first, second = invert(magnitude, 512, 128), invert(other, 512, 128)
    final = 16 * 128  # of 20 frames the 16 first are closed
    assert first[:final].tobytes() == second[:final].tobytes()
    assert not np.array_equal(first, second)


def test_stream_imagined_frames_help_a_causal_stream_and_are_not_output():
    t = np.arange(2 * RATE_HZ) / RATE_HZ
    audio = harmonic(2.0) * (1 + 0.5 * np.sin(2 * np.pi * 3 * t)).astype(np.float32)
    causal, errors = {"block": 1, "look_ahead": 0}, []
    for imagined in (0, 1):
        prompt, out, magnitude, frames = continued(audio, 1536, 384, imagined=imagined, **causal)
        np.testing.assert_allclose(np.abs(frames), magnitude, rtol=1e-4, atol=1e-4)
        errors.append(convergence(np.concatenate([prompt, out]), magnitude, len(prompt), 1536, 384))
    assert errors[1] < 0.7 * errors[0]
    stream = PhaseStream(1536, 384, tail=audio[RATE_HZ // 2 - 1536 : RATE_HZ // 2], imagined=1, **causal)
    for frame, row in zip(frames, magnitude, strict=True):  # each is final at once, whatever comes
        np.testing.assert_array_equal(stream.push(row), frame[None])


def heap_sources(before, now):
    """Phase-gradient heap integration of one frame as it is published, with a heap: where each bin comes from."""
    source, heap = [None] * len(now), [(-level, k, k, False) for k, level in enumerate(before)]
    heapq.heapify(heap)
    while None in source:
        _, k, origin, here = heapq.heappop(heap)
        reached = [n for n in (k - 1, k + 1) if 0 <= n < len(now)] if here else [k]
        for n in reached:
            if source[n] is None:
                source[n] = origin
                heapq.heappush(heap, (-now[n], n, origin, True))
    return source


@pytest.mark.parametrize("seed", range(20))
def test_sources_equal_those_that_a_heap_finds_one_by_one(seed):
    random = np.random.default_rng(seed)
    before, now = random.standard_normal((2, 3, _REACH)).cumsum(-1).astype(np.float32)
    expected = [heap_sources(*rows) for rows in zip(before, now, strict=True)]
    np.testing.assert_array_equal(_sources(before, now), expected + _REACH * np.arange(3)[:, None])


def test_integrate_phases_of_a_gaussian_tone_turn_by_its_frequency():
    n_fft, hop, bin_of_tone = 1536, 384, 100.3
    k = np.arange(n_fft // 2 + 1)
    level = np.tile(-((2 * np.pi * (k - bin_of_tone)) ** 2) * 0.25645 / (4 * np.pi), (3, 1)).astype(np.float32)
    phases = integrate_phases(level, np.zeros(len(k), np.float32), n_fft, hop)
    turned = np.exp(1j * phases[:, 98:103]) * np.exp(-2j * np.pi * hop / n_fft * bin_of_tone * np.array([[1], [2]]))
    np.testing.assert_allclose(turned, 1, atol=1e-3)


@pytest.mark.parametrize("frequency_hz", [220.3, 1007.8125, 1000.0, 5000.7])
def test_stream_sine_continues_across_the_join_without_a_click(frequency_hz):
    t = np.arange(2 * RATE_HZ) / RATE_HZ
    audio = (0.5 * np.sin(2 * np.pi * frequency_hz * t)).astype(np.float32)
    n_fft, hop = 1536, 384
    prompt, out, _, _ = continued(audio, n_fft, hop)
    joined = np.concatenate([prompt, out])
    bend = np.abs(np.diff(joined, 2))
    join, real = len(prompt), np.abs(np.diff(audio, 2)).max()
    for edge in (join - (n_fft - hop), join):  # where blending begins, where the prompt ends: no more than elsewhere
        assert bend[edge - 8 : edge + 8].max() <= real + 1e-5
    assert bend[join - n_fft : join + n_fft].max() <= 1.03 * real  # between them a ripple of up to 0.25 dB
    # and it is the same sine: the error right after the join is small against the amplitude of 0.5
    assert np.abs(joined[join : join + n_fft] - audio[join : join + n_fft]).max() < 0.05


def test_stream_end_fades_out_without_a_click():
    prompt, out, _, _ = continued(harmonic(), 1536, 384)
    assert np.abs(out[-8:]).max() < 1e-3
    bend = np.abs(np.diff(np.concatenate([prompt, out]), 2))
    assert (
        bend[-1536:].max() <= 1.05 * bend[:-1536].max()
    )  # the partials' crests may meet again; a click is many times this


@pytest.mark.parametrize(
    ("n_fft", "hop", "bound"), [(1536, 384, 0.05), (512, 128, 0.1), (2048, 512, 0.05), (1024, 512, 0.2)]
)
def test_stream_harmonic_tone_converges(n_fft, hop, bound):
    prompt, out, magnitude, _ = continued(harmonic(), n_fft, hop)
    assert convergence(np.concatenate([prompt, out]), magnitude, len(prompt), n_fft, hop) < bound


def test_stream_chirp_converges():
    t = np.arange(2 * RATE_HZ) / RATE_HZ
    chirp = (0.5 * np.sin(2 * np.pi * (300 * t + 700 * t**2))).astype(np.float32)
    prompt, out, magnitude, _ = continued(chirp, 1536, 384)
    assert convergence(np.concatenate([prompt, out]), magnitude, len(prompt), 1536, 384) < 0.08


def test_stream_passes_reduce_the_error():
    audio = harmonic() * np.repeat([1.0, 0.2, 1.0, 0.5], RATE_HZ * 3 // 8).astype(np.float32)  # steps of level
    errors = []
    for passes in (0, 8):
        prompt, out, magnitude, _ = continued(audio, 1536, 384, passes=passes)
        errors.append(convergence(np.concatenate([prompt, out]), magnitude, len(prompt), 1536, 384))
    assert errors[1] < 0.7 * errors[0]
    assert errors[1] < 0.12


@pytest.mark.parametrize(("n_fft", "hop"), GRIDS)
def test_invert_silence_stays_silent_and_a_prompt_fades_into_it(n_fft, hop):
    magnitude = np.zeros((12, n_fft // 2 + 1), np.float32)
    assert not invert(magnitude, n_fft, hop).any()
    out = invert(magnitude, n_fft, hop, harmonic()[:n_fft])
    assert not out[n_fft - hop :].any()  # zero frames cover everything after time 0; before it the prompt fades out
    assert out[: n_fft - hop].any()


def test_stream_sound_after_silence_is_kept():
    audio = harmonic()
    audio[: RATE_HZ * 3 // 4] = 0
    prompt, out, magnitude, _ = continued(audio, 1536, 384)
    assert not prompt.any()
    assert np.isclose(np.linalg.norm(out[:-1536]), np.linalg.norm(audio[RATE_HZ // 2 :][: len(out) - 1536]), rtol=0.1)
    assert convergence(np.concatenate([prompt, out]), magnitude, len(prompt), 1536, 384) < 0.2


def test_stream_impulse_keeps_its_place():
    audio = np.zeros(RATE_HZ, np.float32)
    audio[RATE_HZ * 3 // 4] = 0.8
    _, out, _, _ = continued(audio, 1024, 256)
    energy = np.cumsum(out.astype(np.float64) ** 2)
    middle = np.searchsorted(energy, energy[-1] / 2)
    assert abs(middle - RATE_HZ // 4) < 512
    assert np.isfinite(out).all()


def test_invert_same_input_gives_the_same_bytes():
    magnitude = np.random.default_rng(2).random((25, 769), np.float32)
    assert invert(magnitude, 1536, 384).tobytes() == invert(magnitude, 1536, 384).tobytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_fft": 1535, "hop": 384}, "n_fft"),
        ({"n_fft": 1536, "hop": 0}, "hop"),
        ({"n_fft": 1536, "hop": 769}, "hop"),
        ({"n_fft": 1536, "hop": 384, "look_ahead": -1}, "look_ahead"),
        ({"n_fft": 1536, "hop": 384, "imagined": -1}, "imagined"),
        ({"n_fft": 1536, "hop": 384, "passes": -1}, "passes"),
        ({"n_fft": 1536, "hop": 384, "block": 0}, "block"),
        ({"n_fft": 1536, "hop": 384, "momentum": 1.5}, "momentum"),
        ({"n_fft": 1536, "hop": 384, "tail": np.zeros(1535, np.float32)}, "tail"),
        ({"n_fft": 1536, "hop": 384, "tail": np.full(1536, np.nan, np.float32)}, "tail"),
    ],
)
def test_stream_impossible_argument_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        PhaseStream(**arguments)


@pytest.mark.parametrize("magnitude", [np.zeros(768), np.full(769, -1.0), np.full(769, np.inf), np.full(769, np.nan)])
def test_push_impossible_magnitudes_are_refused(magnitude):
    with pytest.raises(ValueError, match="magnitude"):
        PhaseStream(1536, 384).push(magnitude)
