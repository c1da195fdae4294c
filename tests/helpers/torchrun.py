"""Start trainings by torchrun, and find their workers."""

import os
import subprocess
import sys
from pathlib import Path

from conftest import ROOT


def torchrun(meta: Path, *flags: str, launch: tuple = ("--standalone",), each: int = 2) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", *launch, f"--nproc-per-node={each}"]
    command += [str(ROOT / "train.py"), "--meta", str(meta), "--device", "cpu", *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def worker(launcher: subprocess.Popen, rank: int) -> int:
    """Return the process id of a worker that torchrun started."""
    import psutil

    (found,) = [child.pid for child in psutil.Process(launcher.pid).children() if child.environ()["RANK"] == str(rank)]
    return found
