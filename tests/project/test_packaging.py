"""Test the installed package: the command `continuo`, the presets, the demo model, and one top-level module."""

import contextlib
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
import venv
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Return the `bin` of a new environment with Continuo as a wheel and the packages of this environment."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    source.mkdir()
    for path in [*ROOT.glob("*.py"), *(ROOT / name for name in ("pyproject.toml", "requirements.txt", "README.md"))]:
        shutil.copy(path, source)
    shutil.copy(ROOT / "LICENSE", source)
    for name in ("continuo", "evaluation", "web", "models", "examples"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(folder)], cwd=source, check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env")
    python = folder / "env" / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=120)
    find = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", find], check=True, capture_output=True, text=True).stdout.strip()
    assert sorted(path.name for path in Path(site).iterdir() if "dist-info" not in path.name) == ["continuo"]
    (Path(site) / "packages.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "env" / "bin"


def run(*command, cwd):
    return subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=240)


def test_installed_predict_continues_a_score_from_an_empty_folder(installed, tmp_path):
    prompt = ROOT / "examples" / "prompt.musicxml"
    done = run(installed / "continuo", "predict", "--prompt", prompt, "--frames", "20", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prompt.continued.png", "prompt.continued.wav"]
    assert "continuo train trains your own" in done.stderr  # the message does not name train.py, which is not installed


def test_installed_errors_name_the_command(installed, tmp_path):
    done = run(installed / "continuo", "train", "--preset", "codebok-lstm", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("continuo train: ")
    assert "invalid choice: 'codebok-lstm'" in done.stderr
    done = run(
        installed / "continuo", "predict", "--meta", "model.json", "--prompt", "a.mid", "--frames", "1", cwd=tmp_path
    )
    assert done.returncode == 2
    assert "create it: continuo train --meta model.json" in done.stderr
    assert "continuo train --corpus" in run(installed / "continuo", "train", "--help", cwd=tmp_path).stdout


def test_installed_train_writes_into_the_current_folder(installed, tmp_path, music_folder):
    flags = ["--preset", "spectral-lstm", "--corpus", music_folder, "--steps", "1", "--set", "architecture.hidden=8"]
    done = run(installed / "continuo", "train", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {"model.json", "model.safetensors", "model.card.md"} <= {path.name for path in tmp_path.iterdir()}


def test_installed_package_can_be_imported(installed, tmp_path):
    code = "from continuo import Predictor, Trainer; print(Predictor.__module__, Trainer.__module__)"
    done = run(installed / "python", "-c", code, cwd=tmp_path)
    assert done.stdout == "predictor trainer\n", done.stderr


def test_installed_requirements_are_those_of_requirements_txt(installed):
    code = "from importlib.metadata import requires; print('\\n'.join(requires('continuo')))"
    done = run(installed / "python", "-c", code, cwd=installed)
    lines = [line.strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    names = {line.split(">")[0] for line in lines if line and not line.startswith("#")}
    assert {line.split("<")[0].split(">")[0].split("!")[0] for line in done.stdout.split()} == names


def test_installed_studio_opens_its_page(installed, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    studio = subprocess.Popen(
        [installed / "continuo", "studio", "--port", str(port)], cwd=tmp_path, stdout=subprocess.DEVNULL
    )
    try:
        for _ in range(120):
            with contextlib.suppress(OSError):
                page = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10).read()
                break
            time.sleep(0.5)
        assert b"<title>" in page
        script = urllib.request.urlopen(f"http://127.0.0.1:{port}/studio.js", timeout=10)
        assert script.status == 200
    finally:
        studio.terminate()
        studio.wait(30)
