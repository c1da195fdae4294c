"""State files and other outputs are whole or absent; progress displays and one-line errors."""

import io
import os
import threading
import time

import pytest
import torch

from continuo.model import checkpoint
from continuo.model.checkpoint import Progress
from continuo.system.command_line import run_main
from continuo.system.files import atomic_write, check_writable, write_text
from continuo.system.int8 import quantize_int8
from continuo.system.progress import Display, duration
from continuo.system.text import printable

FACTS = {
    "metadata": {"corpus": {"path": "music"}, "representation": {}, "architecture": {}, "state": "m.safetensors"},
    "progress": {"step": 3, "seconds": 1.5, "history": []},
}


def test_save_then_load_gives_tensors_and_facts_back(tmp_path):
    path = tmp_path / "s.safetensors"
    tensors = {"a.x": torch.randn(3, 4), "a.y": torch.arange(5), "b.z": torch.tensor(True), "b.t": torch.randn(4, 4).T}
    checkpoint.save(path, tensors, {"step": 3, "names": ["é"]})
    loaded, facts = checkpoint.load(path)
    assert facts == {"step": 3, "names": ["é"]}
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    assert checkpoint.load(path, "a.")[0].keys() == {"a.x", "a.y"}
    assert checkpoint.under_prefix("a", checkpoint.load(path, "a.")[0]).keys() == {"x", "y"}
    assert [p.name for p in tmp_path.iterdir()] == ["s.safetensors"]


def test_load_of_a_state_without_facts_of_a_model_is_refused_where_they_are_needed(tmp_path):
    path = tmp_path / "s.safetensors"
    checkpoint.save(path, {"a": torch.zeros(1)}, {"step": 3})
    for read in (checkpoint.load_model, checkpoint.read_facts):
        with pytest.raises(ValueError, match=r"not the state of a model \(metadata: Field required\): name a state"):
            read(path)


def test_load_model_of_saved_facts_gives_them_back_with_unknown_keys(tmp_path):
    path = tmp_path / "s.safetensors"
    facts = FACTS | {
        "progress": Progress(7, 2.0, [[5, 1.0, 0.5, 0.25]], best_step=5),
        "amounts": {"pieces": 3},
        "new": 1,
    }
    checkpoint.save(path, {}, facts)
    assert checkpoint.load_model(path)[1] == checkpoint.read_facts(path) == facts


def test_quantize_int8_state_is_small_and_loads_nearly_equal(tmp_path):
    tensors = {
        "matrix": torch.randn(300, 200) * torch.logspace(-3, 3, 300)[:, None],  # rows of very different size
        "stack": torch.randn(3, 40, 50),
        "bias": torch.randn(50),
        "zeros": torch.zeros(4, 4),
        "count": torch.arange(7),
        "flag": torch.tensor(True),
    }
    checkpoint.save(tmp_path / "whole.safetensors", tensors, {})
    checkpoint.save(tmp_path / "small.safetensors", quantize_int8(tensors), {})
    whole, small = ((tmp_path / f"{name}.safetensors").stat().st_size for name in ("whole", "small"))
    assert small < 0.3 * whole
    loaded, _ = checkpoint.load(tmp_path / "small.safetensors")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        if tensor.is_floating_point() and tensor.dim() > 1:
            step = tensor.abs().amax(-1, keepdim=True) / 127
            assert ((loaded[name] - tensor).abs() <= 0.5 * step * (1 + 1e-5) + 1e-9).all()
        else:
            torch.testing.assert_close(loaded[name], tensor, rtol=1e-3, atol=1e-4)
    broken = quantize_int8(tensors)
    for change in ({}, {"matrix:scale": torch.ones(3, 3)}):
        content = {name: tensor for name, tensor in broken.items() if name != "matrix:scale"} | change
        checkpoint.save(tmp_path / "broken.safetensors", content, {})
        with pytest.raises(ValueError, match="damaged or not a state"):
            checkpoint.load(tmp_path / "broken.safetensors")


@pytest.mark.parametrize("part", ["whole", "missing", "half", "terabytes"])
def test_read_facts_reads_the_header_alone(tmp_path, monkeypatch, part):
    """No byte of the tensors is read, whether they are damaged, missing or larger than the memory."""
    path = tmp_path / "s.safetensors"
    checkpoint.save(path, {"a": torch.randn(1_000_000)}, FACTS)
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    if part != "whole":
        os.truncate(path, {"missing": header, "half": header + 2_000_000, "terabytes": 2**42}[part])
        with pytest.raises(ValueError, match=r"damaged or not a state|reads states up to"):
            checkpoint.load(path)
    read = []

    class Counted(io.FileIO):
        def read(self, size=-1):
            read.append(data := super().read(size))
            return data

    monkeypatch.setattr(checkpoint, "open", Counted, raising=False)
    facts = checkpoint.read_facts(path)
    assert (facts["metadata"], facts["progress"]) == (FACTS["metadata"], Progress(3, 1.5, []))
    assert sum(map(len, read)) == header < 1000


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 100, 0.5, 0.99])
def test_load_truncated_state_is_refused_in_one_line(tmp_path, keep):
    path = tmp_path / "s.safetensors"
    checkpoint.save(path, {"a": torch.randn(100)}, {"step": 1})
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    for read in (checkpoint.load, checkpoint.read_facts if keep not in (0.5, 0.99) else checkpoint.load):
        with pytest.raises(ValueError, match="damaged or not a state") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_load_of_other_files_is_refused(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "s.safetensors"
    with pytest.raises(ValueError, match="no state"):
        checkpoint.load(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="another format"):
        checkpoint.load(path)
    torch.save({"a": torch.zeros(1)}, path)  # a pickle is refused, never opened
    with pytest.raises(ValueError, match="damaged or not a state"):
        checkpoint.load(path)


def test_atomic_write_that_fails_keeps_the_old_file_alone(tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "old")

    def fail() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_write_text_gives_ordinary_permissions(tmp_path):
    write_text(tmp_path / "x", "1")
    (tmp_path / "y").write_text("1")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "y").stat().st_mode


def test_A06_readers_never_see_a_part(tmp_path):
    """One thread saves as fast as it can, this one reads: every read is of one whole state."""
    path = tmp_path / "s.safetensors"
    checkpoint.save(path, {"a": torch.zeros(20_000)}, {"step": 0})
    done = threading.Event()

    def write():
        step = 0
        while not done.is_set():
            step += 1
            checkpoint.save(path, {"a": torch.full((20_000 + 997 * (step % 5),), float(step))}, {"step": step})

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen: set[int] = set()
        deadline = time.monotonic() + 60
        while len(seen) < 25 and time.monotonic() < deadline:
            tensors, facts = checkpoint.load(path)
            assert (tensors["a"] == facts["step"]).all()
            seen.add(facts["step"])
    finally:
        done.set()
        writer.join()
    assert len(seen) == 25


def test_check_writable_refuses_existing_files_and_missing_folders(tmp_path):
    (tmp_path / "there").write_text("x")
    check_writable(tmp_path / "new", force=False)
    check_writable(tmp_path / "there", force=True)
    with pytest.raises(ValueError, match="--force"):
        check_writable(tmp_path / "there", force=False)
    with pytest.raises(ValueError, match="is a folder"):
        check_writable(tmp_path, force=True)
    with pytest.raises(ValueError, match="does not exist"):
        check_writable(tmp_path / "no" / "x", force=False)
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("hop 0\nis impossible"), "tool: hop 0 is impossible"),
        (OSError(28, "No space left on device", "x.wav"), "x.wav: No space left on device: free some space"),
        (PermissionError(13, "Permission denied", "x"), "check its permissions"),
    ],
)
def test_run_main_error_is_one_line_and_status_two(error, words, capsys, monkeypatch):
    monkeypatch.delenv("CONTINUO_DEBUG", raising=False)

    def body() -> int:
        raise error

    assert run_main(body, name="tool") == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert printed.count("\n") == 1


def test_save_on_a_full_disk_keeps_the_state_before(tmp_path, monkeypatch):
    path = tmp_path / "s.safetensors"
    checkpoint.save(path, {"a": torch.zeros(3)}, {"step": 1})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("continuo.system.files._sync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, {"a": torch.ones(3)}, {"step": 2})
    assert checkpoint.load(path)[1] == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["s.safetensors"]


def test_duration_of_days_does_not_wrap():
    assert duration(86_399) == "23:59:59"
    assert duration(86_400) == "1 d 00:00:00"
    assert duration(40 * 86_400 + 3_661) == "40 d 01:01:01"


def test_display_on_a_pipe_writes_plain_lines(monkeypatch):
    stream = io.StringIO()
    clock = iter(range(0, 10_000, 6))
    monkeypatch.setattr("continuo.system.progress.time.monotonic", lambda: float(next(clock)))
    with Display(stream=stream) as display:
        task = display.task("work", 10)
        for done in range(1, 6):
            task.update(done, "note")
        display.say("evil\x1b[31m\nname")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "work  20%: note, elapsed 00:12, remaining 00:48"  # 6 s each
    assert lines[-1] == "evil\\x1b[31m\\nname"
    assert printable("é ∑") == "é ∑"


def test_task_remaining_time_counts_from_the_first_progress(monkeypatch):
    stream, now = io.StringIO(), [0.0]
    monkeypatch.setattr("continuo.system.progress.time.monotonic", lambda: now[0])
    with Display(stream=stream) as display:
        task = display.task("fitting", 100)
        for now[0], done in [(0.0, 0), (300.0, 0), (320.0, 25), (380.0, 100)]:
            task.update(done)
    lines = [line.partition("elapsed ")[2] for line in stream.getvalue().splitlines()]
    assert lines == ["05:00, remaining --:--", "05:20, remaining 01:00", "06:20, remaining 00:00"]


def test_load_with_prefixes_gives_names_that_start_with_one(tmp_path):
    path = tmp_path / "s.safetensors"
    kept = checkpoint.with_prefix("a", {"x": torch.zeros(1), "a.y": torch.ones(2)}) | {
        "ab": torch.ones(3),
        "b.x": torch.ones(4),
    }
    checkpoint.save(path, kept, {"step": 1})
    assert kept.keys() == {"a.x", "a.a.y", "ab", "b.x"}
    assert checkpoint.load(path)[0].keys() == kept.keys()
    assert checkpoint.load(path, "a.")[0].keys() == {"a.x", "a.a.y"}
    assert checkpoint.load(path, "a.a", "b.")[0].keys() == {"a.a.y", "b.x"}
    assert checkpoint.load(path, "c")[0] == {}
    assert checkpoint.under_prefix("a", kept).keys() == {"x", "a.y"}
    assert torch.equal(checkpoint.under_prefix("a", kept)["a.y"], torch.ones(2))


def test_weights_prefix_after_a_worse_validation_is_best():
    rows = [[10, 1.0, 2.0, 2.0], [20, 2.0, 1.0, 1.0], [30, 3.0, 0.5, 2.0]]
    assert checkpoint.weights_prefix(Progress(0, 0.0, [], best_step=0)) == "average"
    assert checkpoint.weights_prefix(Progress(20, 1.0, rows[:2], best_step=20)) == "average"
    assert checkpoint.weights_prefix(Progress(30, 1.0, rows, best_step=20)) == "best"


def test_load_refusals_say_what_to_do(tmp_path):
    import json
    import re

    from safetensors.torch import save_file

    path = tmp_path / "s.safetensors"
    with pytest.raises(ValueError, match=re.escape(f"there is no state {path} yet: train first (python train.py)")):
        checkpoint.load(path)
    for header, found in [({"format": "continuo-0"}, "continuo-0"), (None, "unknown"), ({"x": "y"}, "unknown")]:
        save_file({"a": torch.zeros(1)}, path, header)
        words = (
            f"{path} is a state of another format ({found}, not continuo-1): name another state, or train a new one "
        )
        words += "with --fresh"
        with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
            checkpoint.load(path)
    for facts in ({}, {"facts": "{"}):  # none, and no JSON
        save_file({"a": torch.zeros(1)}, path, {"format": checkpoint.FORMAT} | facts)
        with pytest.raises(
            ValueError, match=r"damaged or not a state \(.+\): name a state .*, or train a new one with --fresh$"
        ):
            checkpoint.load(path)
    checkpoint.save(path, {"a": torch.zeros(1)}, {"step": 1})
    header = json.loads((content := path.read_bytes())[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header["__metadata__"] == {"format": "continuo-1", "facts": '{"step": 1}'}  # as others may read it


def test_save_that_fails_says_what_to_do(tmp_path, monkeypatch):
    from safetensors import SafetensorError

    def full(*_):
        raise SafetensorError("I/O error: No space left")

    path = tmp_path / "s.safetensors"
    checkpoint.save(path, {"a": torch.zeros(3)}, {"step": 1})
    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(
        OSError,
        match=r"cannot save .*s.safetensors \(I/O error: No space left\): free some space; the state before is intact",
    ):
        checkpoint.save(path, {"a": torch.ones(3)}, {"step": 2})
    assert checkpoint.load(path)[1] == {"step": 1}


def test_quantize_int8_gives_integers_and_a_scale_for_each_row():
    rows = torch.tensor([[127.0, -63.5, 0.0], [0.0, 0.0, 0.0], [1e-9, -1e-9, 0.0], [2.54, 1.0, -2.54]])
    small = quantize_int8({"m": rows, "row": torch.ones(1, 2), "v": torch.ones(3), "n": torch.ones(2, 2).int()})
    assert {name: tensor.dtype for name, tensor in small.items()} == {
        "m": torch.int8, "m:scale": torch.float32, "row": torch.int8, "row:scale": torch.float32,
        "v": torch.float16, "n": torch.int32,
    }  # fmt: skip
    assert small["m"].tolist() == [[127, -64, 0], [0, 0, 0], [0, 0, 0], [127, 50, -127]]
    torch.testing.assert_close(small["m:scale"], torch.tensor([[1.0], [1e-7], [1e-7], [0.02]]))
    assert quantize_int8({"m": rows.double()})["m:scale"].dtype == torch.float32


def test_save_of_parameters_drops_their_gradients(tmp_path):
    weight = torch.nn.Parameter(torch.randn(3, 2))
    checkpoint.save(tmp_path / "s.safetensors", {"w": weight, "t": weight.T}, {})
    loaded, facts = checkpoint.load(tmp_path / "s.safetensors")
    assert facts == {}
    assert torch.equal(loaded["w"], weight.detach())
    assert torch.equal(loaded["t"], weight.detach().T)
    assert not loaded["w"].requires_grad
