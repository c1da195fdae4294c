"""Test that several processes train like one, with real processes that torchrun starts."""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import torch
from conftest import SMALL_OF, train_small
from small_models import KINDS, SECTIONS, model_of, stream
from torchrun import torchrun, worker

from continuo.model import checkpoint, metadata, presets
from continuo.system.distributed import ProcessGroup
from dataset import Batch, RowSampler
from trainer import LossModule, build_trainer

STEPS = 10


def prepared(folder: Path, music: Path, preset: str = "codec-lstm", steps: int = STEPS, **values) -> Path:
    """Write the metadata file of a tiny model into a folder of its own."""
    folder.mkdir()
    sizes = SMALL_OF[preset] | {"corpus.path": str(music), "training.steps": steps} | values
    metadata.save(presets.from_preset(preset, sizes, state="model.safetensors"), folder / "model.json")
    return folder / "model.json"


def done(process: subprocess.Popen, status: int = 0) -> tuple[str, str]:
    try:
        out, err = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == status, err
    return out, err


def alone(meta: Path, steps: int = STEPS) -> None:
    corpus = metadata.load(meta).corpus.path
    train_small(meta.parent, corpus, steps=steps)


def state_of(meta: Path) -> tuple[dict, dict]:
    return checkpoint.load(meta.parent / "model.safetensors")


def assert_nearly_the_same(meta: Path, other: Path) -> None:
    (tensors, facts), (other_tensors, other_facts) = state_of(meta), state_of(other)
    assert tensors.keys() == other_tensors.keys()
    for name, tensor in tensors.items():
        size = float(tensor.abs().max()) if name.startswith("lanes.") else 1.0  # row states may be larger than 1
        near = 1e-5 * max(1.0, size)
        torch.testing.assert_close(other_tensors[name], tensor, atol=near, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
    history, other_history = (f["progress"]["history"] for f in (facts, other_facts))
    assert [row[0] for row in history] == [row[0] for row in other_history]
    for row, other_row in zip(history, other_history, strict=True):
        assert row[2:] == pytest.approx(other_row[2:], rel=1e-6, abs=1e-5)


def test_process_group_of_one_changes_nothing():
    group = ProcessGroup()
    rows = torch.arange(6).view(3, 2)
    assert torch.equal(rows[group.rows], rows)
    assert group.gather(rows) is rows
    assert group.all_reduce(torch.tensor(2.5, requires_grad=True), 3) == [2.5, 3]
    assert (group.seconds(1.25), group.any_stopped(True), group.any_stopped(False)) == (1.25, True, False)
    module = torch.nn.Linear(2, 2)
    assert group.wrap(module) is module
    before = torch.get_rng_state()
    with group.fork_rng(3), group.local_main_first(), group:
        assert torch.equal(torch.get_rng_state(), before)
    group.check_divides("training.batch_size", 7)


def test_process_group_uneven_batch_is_refused():
    group = ProcessGroup()
    group.size = 4
    group.check_divides("training.batch_size", 8)
    with pytest.raises(ValueError, match=r"training\.batch_size = 9 cannot be shared among 4 processes: set it to 12"):
        group.check_divides("training.batch_size", 9)


def test_sampler_rows_of_all_processes_are_the_batch():
    """Give every process its own rows of the same batches."""
    whole = iter(RowSampler([5, 3, 4], batch_size=4, seed=1))
    parts = [iter(RowSampler([5, 3, 4], 4, 1, slice(rank, None, 2))) for rank in (0, 1)]
    for _ in range(10):
        batch, parts_of_batch = next(whole), [next(part) for part in parts]
        assert [parts_of_batch[row % 2][row // 2] for row in range(4)] == batch


@pytest.mark.parametrize("backbone", SECTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_loss_every_weight_has_a_gradient_in_every_step(kind, backbone):
    """Processes would otherwise wait for a gradient; also check where no piece begins and none ends."""
    model = model_of(kind, backbone=backbone)
    steps = stream(model.spec, 6)
    nothing = torch.zeros(2, 5, dtype=torch.bool)
    batch = Batch(steps[:, :-1], steps[:, 1:], nothing, ~nothing, nothing[:, 0])
    nats, count, _ = LossModule(model)(batch, model.initial_state(2), None)
    nats.backward()
    assert count == 10
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_process_group_reads_restarts_from_the_environment(monkeypatch):
    assert (ProcessGroup().elastic, ProcessGroup().restarted) == (False, False)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert (ProcessGroup().elastic, ProcessGroup().restarted) == (True, False)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert ProcessGroup().restarted


def test_process_group_incomplete_environment_is_refused(monkeypatch, capsys, tmp_path):
    from train import main

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    assert main(["--meta", str(tmp_path / "model.json"), "--quiet"]) == 2
    assert "'RANK' is not set, WORLD_SIZE is: start several processes with torchrun" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "values"),
    [
        ("codec-lstm", {}),
        ("codec-lstm", {"architecture.kind": "transformer", "architecture.hidden": 24, "architecture.heads": 2}),
        ("spectral-lstm", {}),
    ],
)
def test_A14_two_processes_train_like_one(tmp_path, music_folder, preset, values):
    """Compare whole states and losses; only the main process prints."""
    one = prepared(tmp_path / "one", music_folder, preset, **values)
    two = prepared(tmp_path / "two", music_folder, preset, **values)
    alone(one)
    out, err = done(torchrun(two, "--json"))
    assert_nearly_the_same(one, two)
    (line,) = out.splitlines()
    assert json.loads(line)["step"] == STEPS
    assert err.count("trained for") == err.count("frames to learn") == 1
    assert len(list((tmp_path / "two" / "model.runs").glob("events.out.tfevents.*"))) == 1


@pytest.mark.slow
def test_A14_state_resumes_with_another_number_of_processes(tmp_path, music_folder):
    one, mixed = (prepared(tmp_path / name, music_folder, steps=60) for name in ("one", "mixed"))
    alone(one, 60)
    trainer = build_trainer(metadata.load(mixed), mixed.with_suffix(".safetensors"), torch.device("cpu"))
    trainer.run(lambda t: t.stop() if t.progress.step == 4 else None)
    process = torchrun(mixed, "--quiet", "--set", "training.checkpoint_every_s=0.001")
    while process.poll() is None and state_of(mixed)[1]["progress"]["step"] < 6:
        time.sleep(0.005)
    os.kill(worker(process, rank=1), signal.SIGTERM)  # all processes stop when one is signalled
    done(process)
    assert 6 <= state_of(mixed)[1]["progress"]["step"] < 60
    alone(mixed, 60)
    assert_nearly_the_same(one, mixed)


@pytest.mark.slow
def test_A14_killed_process_is_restarted_and_training_continues(tmp_path, music_folder):
    """Continue from the last state, also with `--fresh`, and end like an undisturbed run."""
    values = {"training.checkpoint_every_s": 0.1, "training.validate_every_steps": 20}
    one, two = (prepared(tmp_path / name, music_folder, steps=80, **values) for name in ("one", "two"))
    alone(one, 80)
    process = torchrun(two, "--fresh", launch=("--standalone", "--max-restarts=1"))
    state = two.with_suffix(".safetensors")
    deadline = time.monotonic() + 100
    while not (state.exists() and state_of(two)[1]["progress"]["step"] > 5) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(worker(process, rank=1), signal.SIGKILL)
    killed_after = state_of(two)[1]["progress"]["step"]
    _, err = done(process)
    assert 5 < killed_after < 80
    assert err.count("another process of this training was lost") <= 1
    assert err.count("continuing from step") == 1
    assert_nearly_the_same(one, two)


@pytest.mark.slow
def test_A14_two_machines_train_like_one_process(tmp_path, music_folder):
    """Start two launchers of one process each, which share only an address and a port."""
    one, two = (prepared(tmp_path / name, music_folder) for name in ("one", "two"))
    alone(one)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    static = ("--nnodes=2", "--master-addr=127.0.0.1", f"--master-port={port}")
    nodes = [torchrun(two, "--json", launch=(*static, f"--node-rank={rank}"), each=1) for rank in (0, 1)]
    outputs = [done(node)[0] for node in nodes]
    assert json.loads(outputs[0])["step"] == STEPS
    assert outputs[1] == ""
    assert_nearly_the_same(one, two)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--set", "training.batch_size=5"), "training.batch_size = 5 cannot be shared among 2 processes"),
        (("--corpus", "/nowhere"), "neither a folder nor"),
    ],
)
def test_A14_bad_input_is_refused_in_one_line(tmp_path, music_folder, flags, words):
    meta = prepared(tmp_path / "model", music_folder)
    _, err = done(torchrun(meta, *flags), status=1)  # torchrun's own; that of the processes is in its report
    (line,) = [line for line in err.splitlines() if line.startswith("train.py: ")]
    assert words in line
    assert "exitcode  : 2" in err
    assert [path.name for path in meta.parent.iterdir()] == ["model.json"]
