"""The graph of a step nearly equals the plain model, and each stream is the same alone and among others."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from conftest import RATE_HZ, ROOT, melody

from continuo.audio.piece import Piece
from continuo.model.metadata import LstmSection, MlpSection, Sampling
from continuo.model.onnx_step import first_state, flat_state, low_rank, step_graph
from continuo.model.presets import from_preset
from continuo.model.stream import StreamSpec
from export import main as export
from generation import StepRunner, StreamBatch
from model_definition import SequenceModel, build_model
from predictor import Predictor

STEPS, ROWS = 40, 8
DECAY = torch.linspace(0.2, 0.7, 20)
SMALL = LstmSection(kind="lstm", hidden=48, layers=2, head_width=40)
WITH_ONSETS = LstmSection(kind="lstm", hidden=48, layers=2, head_width=40, onset_memory=7)


def refined(section: LstmSection = SMALL, classes: int = 96, decay: torch.Tensor | None = None) -> SequenceModel:
    """A model of codes that refine one another, whose logits differ clearly; with `decay` they are changes."""
    torch.manual_seed(0)
    vectors = torch.randn(3, classes, 20) * torch.tensor([1.0, 0.5, 0.25])[:, None, None]
    model = build_model(section, StreamSpec(62.5, (classes,) * 3, vectors=vectors, decay=decay)).eval()
    with torch.no_grad():
        model.head.out *= 4
        if section.onset_memory:
            model.backbone.memory_proj.weight *= 8
    return model


def with_few_directions() -> SequenceModel:
    """A model whose memory of onsets needs three directions, as a trained one needs few."""
    model = refined(WITH_ONSETS)
    with torch.no_grad():
        weight = model.backbone.memory_proj.weight
        weight.copy_(torch.randn(len(weight), 3) @ torch.randn(3, weight.shape[1]) / 4)
    return model


def learned(section: LstmSection = SMALL) -> SequenceModel:
    """A model of codes whose vectors are learned, with fewer classes on some levels."""
    torch.manual_seed(0)
    return build_model(section, StreamSpec(2.0, (30, 7, 11))).eval()


MODELS = [refined(), refined(WITH_ONSETS), with_few_directions(), learned(), learned(WITH_ONSETS)]
MODELS += [refined(decay=DECAY), refined(WITH_ONSETS, decay=DECAY)]


def forced(codes: torch.Tensor, classes: int) -> np.ndarray:
    """Noise that leaves no choice but the codes `(B, L)`."""
    return (F.one_hot(codes, classes) * 1e30).flatten(1).float().numpy()


def check_against_plain(model: SequenceModel) -> None:
    """Check that steps of the plain model cost the graph half a percent more nats at most, and contexts agree."""
    graph = step_graph(model)
    sums = [node.input[0] for node in graph.graph.node if node.op_type == "ArgMax"]
    logits = [node.input[0] for node in graph.graph.node if node.output[0] in sums]
    graph.graph.output.extend(helper_output(name) for name in logits)
    steps, classes = StepRunner(graph), model.head.embedding.vectors.shape[1]
    state, context = model.initial_state(ROWS), model.bos_context(ROWS)
    flat, never = first_state(model).repeat(ROWS, 0), np.full((ROWS, 1), np.inf, np.float32)
    generator = torch.Generator().manual_seed(0)
    plain, ours = 0.0, 0.0
    with torch.inference_mode():
        for _ in range(STEPS):
            codes = model.sample(
                context, generator=generator, sampling=Sampling(coarse_temperature=1, fine_temperature=1)
            )
            plain += model.head.nll(context[:, None], codes[:, None]).sum()
            drawn, _, flat, *found = steps(flat, never[None], forced(codes, classes)[None])
            ours += sum(
                F.cross_entropy(torch.from_numpy(row[0]), codes[:, level], reduction="sum")
                for level, row in enumerate(found)
            )
            context, state = model.step(codes, state)
            assert np.array_equal(drawn[0], codes.numpy())
            expected = flat_state(model, context, state)
            assert np.linalg.norm(flat - expected) < 0.03 * np.linalg.norm(expected)
    assert abs(ours - plain) < 0.005 * plain


def helper_output(name: str) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["B", "V"])


@pytest.mark.parametrize("model", MODELS)
def test_step_graph_matches_the_plain_model_to_half_a_percent(model):
    check_against_plain(model)


def test_low_rank_matrix_of_few_directions_becomes_two_factors():
    few = torch.randn(200, 5, generator=torch.Generator().manual_seed(0)) @ torch.randn(5, 60)
    inner, outer = low_rank(few)
    assert inner.shape[0] == outer.shape[1] <= 5
    assert (outer @ inner - few).square().sum() < 0.011 * few.square().sum()
    many = torch.randn(200, 60)
    assert low_rank(many)[0] is many


@pytest.mark.slow
def test_step_graph_at_the_default_presets_size_matches_the_plain_model():
    section = from_preset("codec-lstm", {}, state="unused.safetensors").architecture
    check_against_plain(refined(section, classes=1024, decay=DECAY))


def drawn_by(
    model: SequenceModel, seeds: list[int], count: int, sampling: Sampling
) -> list[list[tuple[list[int], bool]]]:
    temperatures = [model.head.temperature(sampling, level) for level in range(3)]
    together = StreamBatch(StepRunner(step_graph(model)), first_state(model), seeds, temperatures, min_steps=5)
    streams = [together.stream(number) for number in range(len(seeds))]
    return [
        [(codes.tolist(), ended) for _, (codes, ended) in zip(range(count), stream, strict=False)] for stream in streams
    ]


@pytest.mark.parametrize("model", MODELS)
def test_A09_stream_alone_equals_the_stream_in_a_batch(model):
    with torch.no_grad():
        model.ending.bias.fill_(-2.0)
    together = drawn_by(model, list(range(9)), 100, Sampling())
    assert drawn_by(model, [4], 100, Sampling()) == together[4:5]
    assert together[3] != together[4]
    assert any(ended for _, ended in together[4])
    assert not any(ended for _, ended in together[4][:5])


def test_stream_batch_draws_classes_as_often_as_the_plain_model():
    model = refined()
    rows = 4000
    together = StreamBatch(StepRunner(step_graph(model)), first_state(model), range(rows), [1.0] * 3, min_steps=0)
    first = torch.stack([next(together.stream(number))[0] for number in range(rows)])[:, 0]
    with torch.inference_mode():
        logits = model.head.logits(model.bos_context(1), torch.zeros(1, 1, 20), slice(0, 1))[0, 0]
    expected = logits.softmax(-1) * rows
    likely = expected > 40
    counts = torch.bincount(first, minlength=96)
    assert likely.sum() >= 5
    assert ((counts - expected)[likely].abs() < 5 * expected[likely].sqrt()).all()


def test_stream_batch_at_temperature_zero_takes_the_likeliest_for_all_seeds():
    model = refined()
    a, b = drawn_by(model, [1, 2], 30, Sampling(temperature=0))
    assert a == b
    with torch.inference_mode():
        likeliest = model.sample(model.bos_context(1), sampling=Sampling(temperature=0))
    assert a[0][0] == likeliest[0].tolist()


def test_step_graph_after_an_ending_starts_from_the_first_state():
    model = refined()
    steps, state = StepRunner(step_graph(model)), np.random.default_rng(0).standard_normal(first_state(model).shape)
    noise = np.random.default_rng(1).standard_normal((1, 1, 3 * 96)).astype(np.float32)
    always = np.full((1, 1, 1), -np.inf, np.float32)
    codes, ended, after = steps(state.astype(np.float32), always, noise)
    fresh, _, fresh_after = steps(first_state(model), -always, noise)
    assert ended.item()
    assert np.array_equal(codes, fresh)
    assert np.array_equal(after, fresh_after)


def test_step_runner_equals_repeated_runs_of_the_graph():
    model = refined(WITH_ONSETS)
    with torch.no_grad():
        model.ending.bias.fill_(-2.0)
    graph = step_graph(model)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    random, state = np.random.default_rng(2), first_state(model).repeat(4, 0)
    noise = random.gumbel(size=(10, 4, 3 * 96)).astype(np.float32)
    threshold = random.logistic(size=(10, 4, 1)).astype(np.float32)
    codes, ended, after = StepRunner(graph)(state, threshold, noise)
    for t in range(10):
        expected = session.run(None, {"state": state, "threshold": threshold[t], "noise": noise[t]})
        assert np.array_equal(codes[t], expected[0])
        assert np.array_equal(ended[t], expected[1])
        state = expected[2]
    assert np.array_equal(after, state)
    assert ended.any()


def test_step_graph_of_another_architecture_is_refused():
    spec = StreamSpec(2.0, (5, 5))
    model = build_model(MlpSection(kind="mlp", hidden=8, layers=1, window=2, head_width=8), spec)
    with pytest.raises(ValueError, match="only an LSTM"):
        step_graph(model)


def test_take_with_top_p_uses_the_plain_model(trained):
    take = Predictor.load(trained).take(None, seed=0, sampling=Sampling(top_p=0.5))
    assert len(list(take.steps(5))) == 5
    assert take.stream.__name__ == "single_stream"


def test_A09_takes_drawn_together_equal_the_takes_alone(trained):
    predictor = Predictor.load(trained)
    prompt = Piece.from_samples(melody(4), RATE_HZ)
    several = predictor.takes(prompt, [3, 4, 5])
    audio = [np.concatenate([*take.samples(33), take.finish()]) for take in several]
    alone = predictor.take(prompt, seed=4)
    assert np.array_equal(audio[1], np.concatenate([*alone.samples(33), alone.finish()]))
    assert not np.array_equal(audio[0], audio[1])


def test_A09_export_graph_run_by_hand_makes_the_same_music(trained, tmp_path):
    out = tmp_path / "step.onnx"
    assert export(["--meta", str(trained), "--out", str(out)]) == 0
    predictor = Predictor.load(trained)
    take = predictor.take(None, seed=11)
    audio = np.concatenate([*take.samples(32), take.finish()])

    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    facts = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    assert facts["steps_per_second"] == predictor.steps_per_second
    state, generator = np.array(facts["opening"], np.float32), np.random.default_rng(11)
    shape = (facts["levels"], max(facts["vocabulary"]))
    never = np.full((1, 1), np.inf, np.float32)  # 32 steps are less than the two seconds before which nothing ends
    decoder = predictor.featurizer.decoder()
    blocks = []
    for _ in range(2):
        generator.logistic(size=16)  # the thresholds that would be, drawn before the noise, sixteen steps at a time
        draws = np.maximum(generator.random((16, *shape), dtype=np.float32), np.float32(2.0**-25))
        noise = -np.log(-np.log(draws)) * np.array(facts["temperatures"], np.float32)[:, None]
        for row in noise:
            inputs = {"state": state, "threshold": never, "noise": row.reshape(1, -1)}
            codes, _, state = session.run(["codes", "ended", "state_after"], inputs)
            blocks.append(decoder.push(torch.from_numpy(codes[0])))
    assert np.array_equal(audio, np.concatenate([*blocks, decoder.finish()]))


def test_export_bad_output_or_model_is_refused_in_one_line(trained, tmp_path, capsys):
    (tmp_path / "step.onnx").write_text("mine")
    assert export(["--meta", str(trained), "--out", str(tmp_path / "step.onnx")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "step.onnx").read_text() == "mine"
    assert export(["--meta", str(ROOT / "missing.json"), "--out", str(tmp_path / "new.onnx")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "new.onnx").exists()
    for mine in (trained, trained.with_suffix(".safetensors")):
        before = mine.read_bytes()
        assert export(["--meta", str(trained), "--out", str(mine), "--force"]) == 2
        assert "would be a model's own file" in capsys.readouterr().err
        assert mine.read_bytes() == before
