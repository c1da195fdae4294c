"""The codec of sound: codes of a part equal those of the whole, sound comes back, and folders only adapt it."""

import numpy as np
import pytest
import soundfile
import torch

import train
from continuo.audio.phase import PhaseStream
from continuo.audio.piece import Piece
from continuo.audio.stereo import BANDS
from continuo.audio.stft import spectrum
from continuo.codec import codec as module
from continuo.codec.decoder import PROMPT_FRAMES
from continuo.codec.loss import RestorationLoss
from continuo.codec.network import AHEAD, PAST, RestorationNetwork
from continuo.codec.quantizer import STRETCH, PredictiveQuantizer
from continuo.codec.vectors import FLOOR, HIGH_BANDS, HOP, LOW_FLOOR, N_FFT, RATE_HZ, FrameVectors
from continuo.model import presets
from continuo.symbolic.chords import ChordCodec
from featurizer import CodecFeaturizer, build_featurizer
from predictor import Predictor, joined


def music(seed: int, seconds: float = 3.0) -> np.ndarray:
    """Return decaying notes of 12 harmonics, each in one place between left and right, `(N, 2)`."""
    rng, sound = np.random.default_rng(seed), np.zeros((round(seconds * RATE_HZ), 2), np.float32)
    for onset in np.arange(0, seconds, 0.5):
        sounding = sound[round(onset * RATE_HZ) :][: 3 * RATE_HZ]  # 3 s later a note has decayed to 3e-7
        after, pitch_hz = np.arange(len(sounding)) / RATE_HZ, 110 * 2 ** (rng.integers(24) / 12)
        tones = (np.sin(2 * np.pi * pitch_hz * n * after) * np.exp(-(4 + n) * after) / n for n in range(1, 13))
        sounding += 0.1 * sum(tones)[:, None] * rng.uniform(0.2, 1, 2)
    return sound


def featurizer(channels: int = 2, **settings: int) -> CodecFeaturizer:
    values = {"corpus.channels": channels} | {f"representation.{name}": value for name, value in settings.items()}
    made = build_featurizer(presets.from_preset("codec-lstm", values, state="unused.safetensors"))
    assert isinstance(made, CodecFeaturizer)
    return made


def adapt(codec: CodecFeaturizer, pieces: list[Piece]) -> None:
    codec.fit(pieces, seed=0)
    assert set(codec.adapt(pieces, seed=0)) == {None}


def quantizer() -> PredictiveQuantizer:
    generator = torch.Generator().manual_seed(0)
    return PredictiveQuantizer(torch.randn(3, 16, 4, generator=generator), torch.tensor([0.0, 0.3, 0.6, 0.8]))


class TestQuantizer:
    def test_decode_known_codes_gives_leaky_sums(self):
        simple = PredictiveQuantizer(torch.tensor([[[1.0], [2.0]], [[0.0], [0.5]]]), torch.tensor([0.5]))
        assert simple.decode(torch.tensor([[0, 0], [1, 1], [0, 0]])).tolist() == [[1.0], [3.0], [2.5]]
        assert simple.decode(torch.tensor([[0, 0]]), torch.tensor([4.0])).tolist() == [[3.0]]

    def test_encode_takes_the_nearest_centroid_of_the_change_at_each_level(self):
        coder = quantizer()
        vectors = torch.randn(1, 20, 4, generator=torch.Generator().manual_seed(1))
        codes, last = coder.encode(vectors)[0], torch.zeros(4)
        for target, step in zip(vectors[0], codes, strict=True):
            rest = target - coder.decay * last
            for level, code in enumerate(step):
                distances = (rest - coder.centroids[level]).square().sum(-1)
                assert distances[code] == pytest.approx(float(distances.min()), rel=1e-5)
                rest = rest - coder.centroids[level, code]
            last = target - rest
        assert torch.allclose(coder.decode(codes)[-1], last, atol=1e-5)

    def test_decode_in_parts_equals_the_whole(self):
        coder, codes = quantizer(), torch.randint(16, (50, 3), generator=torch.Generator().manual_seed(2))
        whole = coder.decode(codes)
        parts = [coder.decode(codes[:20]), coder.decode(codes[20:], whole[19])]
        assert torch.equal(torch.cat(parts), whole)

    def test_encode_stretches_of_some_equals_those_of_all(self):
        vectors = torch.randn(20, STRETCH, 4, generator=torch.Generator().manual_seed(5))
        whole = quantizer().encode_stretches(vectors)
        assert whole.shape == (19 * STRETCH, 3)
        assert torch.equal(quantizer().encode_stretches(vectors[4:7]), whole[4 * STRETCH : 6 * STRETCH])


class TestNetwork:
    def test_new_network_corrects_nothing(self):
        assert not RestorationNetwork(6, 9)(torch.randn(2, PAST + 7 + AHEAD, 6)).any()

    def test_forward_sees_the_frames_around_each_frame_and_no_others(self):
        network = RestorationNetwork(6, 9)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(3))
        components = torch.randn(1, PAST + 40 + AHEAD, 6)
        changed = components.clone()
        changed[0, PAST + 20] += 1
        differs = (network(components) != network(changed)).any(-1)[0].nonzero()[:, 0]
        assert differs.min() == 20 - AHEAD
        assert differs.max() <= min(39, 20 + PAST)

    def test_loss_of_equal_vectors_is_nothing_but_what_phases_change(self):
        real = torch.randn(2, 32, 70)
        loss = RestorationLoss(torch.ones(70), np.linspace(0, 12_000, 65), 2, floor=3e-5, n_fft=128, hop=32, run=32)
        assert float(loss(real, real)) == 0
        assert float(loss(real + 0.1, real)) > 0.01

    def test_loss_of_the_audio_grows_more_with_flicker_than_with_level(self):
        tone = np.sin(2 * np.pi * 0.031 * np.arange(128 + 31 * 32)).astype(np.float32)
        frames = torch.stft(torch.from_numpy(tone), 128, 32, window=torch.hann_window(128), center=False,
                            return_complex=True).T[None] / 64  # fmt: skip
        loss = RestorationLoss(torch.ones(67), np.linspace(0, 12_000, 65), 2, floor=3e-5, n_fft=128, hop=32, run=32)
        real = torch.nn.functional.pad((frames.abs() + 3e-5).log(), (0, 2), value=np.log(3e-5))
        phases, sign = frames.angle(), torch.tensor([1.0, -1.0]).repeat(16)[None, :, None]
        same, steady, flickering = (float(loss(real + by, real, phases, 0)) for by in (0.0, 0.2, 0.2 * sign))
        assert flickering > max(same, steady) + 0.5

    def test_found_phases_are_those_of_the_decoder(self):
        magnitudes = torch.rand(2, 40, 65, generator=torch.Generator().manual_seed(3))
        loss = RestorationLoss(torch.ones(67), np.linspace(0, 12_000, 65), 2, floor=3e-5, n_fft=128, hop=32, run=40)
        found = loss.found_phases(magnitudes, 2)
        stream = PhaseStream(128, 32, passes=2)
        frames = np.concatenate([*map(stream.push, magnitudes[1].numpy()), stream.finish()])
        assert np.allclose(np.exp(1j * found[1].numpy()), np.exp(1j * np.angle(frames)), atol=1e-5)


class TestHighBands:
    def test_fold_of_unfold_keeps_low_bins_and_energies(self):
        high = FrameVectors().high
        folded = torch.rand(5, high.start + HIGH_BANDS) + 0.1
        magnitude = high.unfold(folded)
        assert torch.equal(magnitude[:, : high.start], folded[:, : high.start])
        assert torch.allclose(high.fold(magnitude), folded, rtol=1e-5)
        assert not magnitude[:, FrameVectors().bins_hz > 20_050].any()

    def test_unfold_of_silent_low_bins_is_finite(self):
        high = FrameVectors().high
        folded = torch.zeros(1, high.start + HIGH_BANDS)
        folded[:, high.start :] = 0.5
        assert high.unfold(folded).isfinite().all()


class TestFrameVectors:
    def test_magnitudes_are_what_was_measured(self):
        frames = spectrum(music(0), N_FFT, HOP)
        space = FrameVectors()
        magnitudes, image = space.magnitudes(space.measure(frames, LOW_FLOOR))
        low = slice(0, space.high.start)
        torch.testing.assert_close(
            magnitudes[:, low], frames.abs().square().mean(1).sqrt()[:, low], atol=0.05, rtol=1e-3
        )
        torch.testing.assert_close(image, space.image.measure(frames))

    def test_floors_are_exchanged(self):
        frames = spectrum(music(0)[:, 0], N_FFT, HOP)
        space = FrameVectors()
        high, low = (space.measure(frames, floor) for floor in (FLOOR, LOW_FLOOR))
        torch.testing.assert_close(space.with_floor(low), high, atol=1e-4, rtol=1e-4)
        audible = slice(0, 100)  # what lies below the floor of the codes is not known
        loud = (high[:, audible] / space.weight[audible]).exp() > 4 * FLOOR
        torch.testing.assert_close(
            space.with_low_floor(high)[:, audible][loud], low[:, audible][loud], atol=1e-2, rtol=1e-2
        )
        assert not high[:, -2 * BANDS :].any()  # one channel has no image


class TestFeaturizer:
    def test_encode_part_equals_that_part_of_the_whole(self):
        piece, codec = Piece.from_samples(music(0, 8.0), RATE_HZ), featurizer()
        whole = codec.encode(piece)
        assert whole.shape == (codec.steps(piece), 3)
        for start, stop in [(0, 10), (200, 300), (STRETCH, 2 * STRETCH - 20), (300, 301)]:
            assert torch.equal(codec.encode(piece, start, stop), whole[start:stop])

    def test_silence_before_music_is_decoded_as_silence(self):
        samples = np.concatenate([np.zeros((RATE_HZ, 2), np.float32), music(1, 1.0)])
        piece, codec = Piece.from_samples(samples, RATE_HZ), featurizer(1)
        decoder = codec.decoder()
        made = np.concatenate([*map(decoder.push, codec.encode(piece)), decoder.finish()])[N_FFT // 2 :]
        assert np.abs(made[: RATE_HZ - N_FFT]).max() < 0.02 * np.abs(made).max()

    @pytest.mark.parametrize("channels", [1, 2])
    def test_decoded_music_has_the_loudness_of_the_original(self, channels):
        piece, codec = Piece.from_samples(music(1), RATE_HZ), featurizer(channels)
        decoder = codec.decoder()
        made = np.concatenate([*(decoder.push(step) for step in codec.encode(piece)), decoder.finish()])
        assert made.shape[1:] == ((2,) if channels == 2 else ())
        real = piece.read_channels(0, len(piece.samples)) if channels == 2 else piece.read(0, len(piece.samples))
        assert 20 * np.log10(made.std() / real.std()) == pytest.approx(0, abs=2)

    def test_decoder_gives_the_same_samples_however_steps_are_pushed(self):
        prompt, codec = Piece.from_samples(music(2, 1.5), RATE_HZ), featurizer()
        codes = torch.randint(1024, (150, 3), generator=torch.Generator().manual_seed(4))
        decoder, other = codec.decoder(prompt), codec.decoder(prompt)
        parts = [decoder.push(step) for step in codes]
        ends = np.concatenate([*parts, decoder.finish()])
        again = np.concatenate([*(other.push(step) for step in codes), other.finish()])
        assert len(ends) == decoder.overlap_samples + 150 * HOP
        assert np.array_equal(ends, again)
        assert any(len(part) for part in parts[: 16 + AHEAD + 4])  # sound comes while steps are made

    def test_decoder_gives_a_steady_flow(self):
        codec, codes = featurizer(1), torch.randint(1024, (260, 3), generator=torch.Generator().manual_seed(5))
        decoder = codec.decoder()
        blocks = [len(decoder.push(step)) for step in codes]
        assert all(sum(blocks[first : first + 64]) == 64 * HOP for first in range(100, 180))

    def test_decoder_magnitudes_step_by_step_equal_those_of_the_whole(self):
        codec = featurizer(1)
        codes = codec.encode(Piece.from_samples(music(3), RATE_HZ))[:40]
        decoder, made = codec.decoder(), []
        components = torch.cat([decoder.recent, codec.codec.components(codes, decoder.recent[-1])])
        whole = codec.codec.decode_components(torch.cat([components, components[-1:].expand(AHEAD, -1)]))[0]
        keep = decoder.phase.push
        decoder.phase.push = lambda magnitude: (made.append(magnitude), keep(magnitude))[1]
        for step in codes:
            decoder.push(step)
        decoder.finish()
        np.testing.assert_allclose(np.array(made), whole.numpy(), rtol=1e-3, atol=1e-3)

    def test_decoder_starts_from_the_last_frames_of_the_prompt(self):
        codec, piece = featurizer(), Piece.from_samples(music(3), RATE_HZ)
        tail = codec.tail(piece, PROMPT_FRAMES)
        assert len(tail) == N_FFT + (PROMPT_FRAMES - 1) * HOP
        recent, frames = codec.decoder(piece).recent, spectrum(tail, N_FFT, HOP)
        assert torch.equal(recent, codec.codec.components(codec.codec.encode(frames))[-PAST:])
        whole = codec.codec.components(codec.encode_prompt(piece))[-PAST:]  # rounding decides between close centroids
        assert (recent - whole).norm() < 0.2 * whole.norm()
        short = codec.decoder(Piece.from_samples(music(3)[:N_FFT], RATE_HZ)).recent  # one frame, repeated
        assert torch.equal(short, short[:1].expand(PAST, -1))

    def test_round_trip_is_decode_after_encode(self):
        codec, frames = featurizer().codec, spectrum(music(4), N_FFT, HOP)
        for name in ("vocabulary", "encode", "decode", "to_dict"):
            assert hasattr(codec, name)
            assert hasattr(ChordCodec(), name)
        made = codec.round_trip(frames)
        assert torch.equal(made, codec.decode(codec.encode(frames)))
        real = (frames.abs().square().mean(1).sqrt() + 1).log()
        assert ((made + 1).log() - real).square().mean() < 0.4**2 * (real - real.mean(0)).square().mean()

    def test_channels_out_of_phase_are_not_lost(self):
        samples = music(6)[:, :1] * np.float32([1, -1])
        piece, codec = Piece.from_samples(samples, RATE_HZ), featurizer()
        decoder = codec.decoder(piece)
        made = np.concatenate([*map(decoder.push, codec.encode(piece)), decoder.finish()])[N_FFT:]
        powers = np.square(made).mean(0)
        assert powers == pytest.approx(np.square(piece.read_channels(0, len(samples))).mean(0), rel=0.5)
        assert np.corrcoef(made.T)[0, 1] < 0

    @pytest.mark.slow
    def test_state_restores_codes_and_decoder_and_holds_only_what_was_adapted(self):
        codec, other = featurizer(adaptation_steps=20), featurizer(channels=1, adaptation_steps=20)
        adapt(codec, [Piece.from_samples(music(seed, 20.0), RATE_HZ) for seed in range(2)])
        state = codec.state()
        names = {f"network.{name}" for name, _ in codec.codec.network.named_parameters() if module.is_adapted(name)}
        assert {name for name in state if name.startswith("network.")} == names
        adapted = sum(w.numel() for name, w in codec.codec.network.named_parameters() if module.is_adapted(name))
        assert sum(tensor.numel() * tensor.element_size() for tensor in state.values()) < 2 * adapted + 1000
        other.load_state(state)
        assert other.channels == 2
        assert other.fingerprint() == codec.fingerprint()
        components = torch.randn(PAST + 3 + AHEAD, 160)
        assert torch.equal(other.codec.decode_components(components)[0], codec.codec.decode_components(components)[0])

    def test_codec_is_as_shipped_until_the_last_part_of_the_adaptation(self):
        codec = featurizer(adaptation_steps=4)
        pieces = [Piece.from_samples(music(seed, 20.0), RATE_HZ) for seed in range(2)]
        codec.fit(pieces, seed=0)
        before, codes, parts = codec.state(), codec.fingerprint(), codec.adapt(pieces, seed=0)
        assert not codec.settled
        for _ in parts:
            assert all(torch.equal(tensor, before[name]) for name, tensor in codec.state().items())
        assert codec.settled
        assert codec.fingerprint() == codes
        other = featurizer(adaptation_steps=4)
        for _ in other.adapt(pieces, seed=0):
            torch.rand(3)  # what happens in between changes nothing
        assert all(torch.equal(tensor, codec.state()[name]) for name, tensor in other.state().items())

    def test_layout_changes_with_the_adaptation_so_that_no_other_fit_is_taken_from_the_cache(self):
        assert len({featurizer(adaptation_steps=steps, channels=n).layout() for steps in (0, 200) for n in (1, 2)}) == 4

    def test_state_that_was_not_adapted_holds_no_network(self):
        assert set(featurizer(adaptation_steps=0).state()) == {"shipped", "channels", "passes", "settled"}

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"shipped": torch.zeros(16, dtype=torch.uint8)}, r"not those of codec\.safetensors, which Continuo ships"),
            ({"passes": torch.tensor(3)}, "3 passes"),
            ({"channels": torch.tensor(3)}, "3 channels"),
            ({"network.ln.bias": torch.zeros(3)}, "size mismatch"),
            ({"network.more": torch.zeros(3)}, "Unexpected key"),
        ],
    )
    def test_load_state_of_another_codec_or_damaged_is_refused(self, change, words):
        codec = featurizer()
        with pytest.raises((ValueError, RuntimeError), match=words):
            codec.load_state(codec.state() | change)

    @pytest.mark.parametrize("name", ["mean", "components", "decay"])
    def test_codec_of_another_shape_is_refused(self, name):
        with pytest.raises(ValueError, match=f"{name} is torch.float32 of"):
            module.SpectralCodec(1, 0, module.shipped() | {name: torch.zeros(3)})

    def test_digest_changes_with_the_codes_and_with_the_network(self):
        whole = module.shipped()
        changed = [whole | {name: whole[name] + 1} for name in ("centroids", "mean", "network.blocks.0.a.weight")]
        digests = [bytes(module.SpectralCodec(1, 0, tensors).digest.tolist()) for tensors in (whole, *changed)]
        assert len(set(digests)) == 4

    def test_mono_corpus_stays_mono(self):
        codec = featurizer(adaptation_steps=0)
        codec.fit([Piece.from_samples(music(0)[:, 0], RATE_HZ)], seed=0)
        assert codec.channels == 1

    @pytest.mark.slow
    def test_fit_keeps_the_network_unless_held_out_music_improves(self, monkeypatch):
        pieces = [Piece.from_samples(music(seed, 20.0), RATE_HZ) for seed in range(2)]
        codec, before = featurizer(adaptation_steps=3), featurizer().state()
        monkeypatch.setattr(module, "LEARNING_RATE", 10.0)
        adapt(codec, pieces)
        assert codec.settled
        assert all(torch.equal(tensor, before[name]) for name, tensor in codec.state().items() if name != "settled")

    @pytest.mark.slow
    def test_fit_brings_decoded_music_closer_to_a_folder(self):
        pieces = [Piece.from_samples(music(seed, 30.0), RATE_HZ) for seed in range(3)]
        codec, shipped = featurizer(adaptation_steps=40), featurizer()
        adapt(codec, pieces)
        frames = next(iter(codec.sample([Piece.from_samples(music(9, 5.0), RATE_HZ)], 200, 0, 200)))
        real = (frames.abs().square().mean(1).sqrt() + 0.1).log()
        made = ((each.codec.round_trip(frames) + 0.1).log() for each in (codec, shipped))
        errors = [(logs - real).square().mean() for logs in made]
        assert errors[0] < errors[1]


@pytest.mark.parametrize("rate_hz", [24_000, 48_000])
def test_other_sample_rates_are_refused_in_one_line(tmp_path, capsys, rate_hz):
    soundfile.write(tmp_path / "a.wav", music(0), RATE_HZ)
    words = [
        "--preset",
        "codec-lstm",
        "--corpus",
        str(tmp_path),
        "--meta",
        str(tmp_path / "m.json"),
        "--steps",
        "1",
    ]
    assert train.main([*words, "--set", f"corpus.sample_rate_hz={rate_hz}"]) == 2
    assert "corpus.sample_rate_hz must be 44100" in capsys.readouterr().err


def test_missing_shipped_codec_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "SHIPPED", tmp_path / "codec.safetensors")
    module.shipped.cache_clear()
    with pytest.raises(ValueError, match=r"codec\.safetensors is missing"):
        featurizer()
    module.shipped.cache_clear()


def test_A16_preset_trains_at_once_and_continues_in_stereo(tmp_path):
    folder = tmp_path / "music"
    folder.mkdir()
    for seed in range(3):
        soundfile.write(folder / f"{seed}.wav", music(seed, 4.0), RATE_HZ)
    small = ["architecture.hidden=16", "architecture.head_width=16", "representation.adaptation_steps=0"]
    small.append("corpus.transpose=1")  # three keys: encoding is most of the work
    small.append("training.precision=float32")  # its choice takes a second
    words = ["--preset", "codec-lstm", "--corpus", str(folder), "--meta", str(tmp_path / "m.json"), "--steps", "2"]
    assert train.main([*words, *(word for value in small for word in ("--set", value))]) == 0
    predictor = Predictor.load(tmp_path / "m.json")
    soundfile.write(tmp_path / "prompt.wav", music(8, 2.0), RATE_HZ)
    prompt = predictor.prompt(tmp_path / "prompt.wav")
    whole = np.concatenate([*joined(predictor.take(prompt, seed=1), prompt, 40)])
    assert whole.shape == (len(prompt.samples) + 40 * HOP, 2)
    start = len(prompt.samples) - predictor.take(None).overlap_samples
    np.testing.assert_allclose(whole[:start], prompt.samples[:start], atol=1e-6)
    assert np.abs(whole[len(prompt.samples) :]).max() > 0.001
