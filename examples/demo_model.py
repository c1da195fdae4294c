"""Train the model that comes with the project, `models/demo/chorales.json`, and make it small.

    python examples/demo_model.py [--minutes 58] [--work demo-model]

Trains the default preset on the bundled chorales in the folder `--work` (started again, it goes on
there), keeps the weights that predict, as 8-bit integers and half precision, and what was adapted of the codec, and
writes them to `models/demo/` with a model card.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from train import main as train

NAME = "chorales"
ADAPTATION_STEPS = 800  # four times the default


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=58.0)
    parser.add_argument("--work", type=Path, default=Path("demo-model"))
    arguments = parser.parse_args(argv)
    arguments.work.mkdir(parents=True, exist_ok=True)
    meta = arguments.work / f"{NAME}.json"
    flags = ["--minutes", str(arguments.minutes), "--set", f"representation.adaptation_steps={ADAPTATION_STEPS}"]
    status = train(["--meta", str(meta), *flags])
    if status == 0:
        pack(meta, ROOT / "models" / "demo")
    return status


def pack(meta: Path, folder: Path) -> None:
    """Write what predicting needs of a trained model to `folder`, small enough to be passed on."""
    from rich.filesize import decimal

    from continuo.model import checkpoint, metadata  # not before `train`, which says how torch's threads wait
    from continuo.model.card import write_card
    from continuo.system.int8 import quantize_int8

    described = metadata.load(meta)
    tensors, facts = checkpoint.load_model(meta.parent / described.state)
    prefix = checkpoint.weights_prefix(facts["progress"])
    geometry = "head.embedding.vectors", "change_decoder.decay"  # the codec's own
    weights = {n: t for n, t in tensors.items() if n.startswith(f"{prefix}.") and not n.endswith(geometry)}
    codec = {name: tensor for name, tensor in tensors.items() if name.startswith("featurizer.")}
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / f"{NAME}.safetensors"
    checkpoint.save(state, quantize_int8(weights | codec), facts)
    write_card(state, facts, keep_evaluation=False)
    metadata.save(described.model_copy(update={"state": state.name}), folder / f"{NAME}.json")
    print(f"{state}: {decimal(state.stat().st_size)}")


if __name__ == "__main__":
    sys.exit(main())
