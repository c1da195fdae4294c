"""The main job in a few minutes: train on the bundled chorales, continue a score while training goes on.

    make demo            (or: python examples/demo.py [--minutes 4] [--out demo])

Leaves `demo/early.wav` (predicted from the first saved state, while training runs), `demo/continued.wav` (after it),
and a picture of each. Started again, it trains on where it stopped.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PIECES = 150  # of the bundled chorales: fewer are rendered sooner
LEARNING_RATE = 0.004  # twice the default: four minutes are short


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--out", type=Path, default=Path("demo"))
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    meta, state = arguments.out / "model.json", arguments.out / "model.safetensors"
    began = time.monotonic()
    print(f"Training for {arguments.minutes:g} minutes on {PIECES} chorales; Ctrl-C stops and keeps what was learned.")
    train = [sys.executable, str(ROOT / "train.py"), "--meta", str(meta), "--minutes", str(arguments.minutes)]
    settings = [f"corpus.pieces={PIECES}", f"training.learning_rate={LEARNING_RATE}"]
    trainer = subprocess.Popen([*train, *(word for setting in settings for word in ("--set", setting))])
    try:
        while not state.exists() and trainer.poll() is None:
            time.sleep(0.2)
        if trainer.poll() is None:
            print("\nThe first state is saved: continuing examples/prompt.musicxml while training runs.")
            predict(meta, arguments.out / "early.wav")
        status = trainer.wait()
    except KeyboardInterrupt:
        status = trainer.wait()
    if status:
        return status
    predict(meta, arguments.out / "continued.wav")
    print(
        f"\nDone in {(time.monotonic() - began) / 60:.1f} minutes. Listen to {arguments.out / 'early.wav'} and then to"
    )
    print(
        f"{arguments.out / 'continued.wav'}; look at {arguments.out / 'continued.png'}. Another take of the same model:"
    )
    print(f"  {Path(sys.executable)} predict.py --meta {meta} --prompt examples/prompt.musicxml --frames 500 --seed 1")
    return 0


def predict(meta: Path, out: Path) -> None:
    prompt = ROOT / "examples" / "prompt.musicxml"
    command = [sys.executable, str(ROOT / "predict.py"), "--meta", str(meta), "--prompt", str(prompt)]
    subprocess.run([*command, "--frames", "500", "--out", str(out), "--force"], check=True)


if __name__ == "__main__":
    sys.exit(main())
