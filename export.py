"""Write the step of a trained model as ONNX, to play it without Continuo and without torch.

    %(prog)s --meta model.json --out step.onnx

The file holds the graph of one step for any number of streams (inputs `state`, `threshold` and `noise`, outputs
`codes`, `ended` and `state_after`: see `continuo/model/onnx_step.py`) and needs ONNX Runtime 1.20 or newer. Its
metadata holds the rest, each a JSON value: `opening`, the `state` of one stream before a piece's first step; `levels`
and `vocabulary` of a step; `steps_per_second`; `temperatures`, the defaults of `predict.py` for each level.
`StreamBatch` in `generation.py` draws thresholds and noise from a seed, sixteen steps at a time; no piece ends in the
first two seconds.
A hundred steps from the beginning of a piece:

    import json
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession("step.onnx")
    facts = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    state, never = np.array(facts["opening"], np.float32), np.array([[np.inf]], np.float32)
    heat = np.repeat(facts["temperatures"], session.get_inputs()[2].shape[1] // facts["levels"])
    for _ in range(100):
        noise = (heat * np.random.gumbel(size=heat.shape)).astype(np.float32)[None]
        codes, ended, state = session.run(None, {"state": state, "threshold": never, "noise": noise})
"""

import argparse
import json
import sys
from pathlib import Path

from continuo.system.command_line import Parser, run_main
from continuo.system.files import atomic_write, check_writable


def build_parser() -> argparse.ArgumentParser:
    parser = Parser("export", __doc__)
    parser.add_argument("--meta", type=Path, default=Path("model.json"), help="metadata file (default: model.json)")
    parser.add_argument("--out", type=Path, default=Path("step.onnx"), help="file to write (default: step.onnx)")
    parser.add_argument("--force", action="store_true", help="overwrite an existing file")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    return run_main(lambda: _run(arguments), name="export")


def _run(arguments: argparse.Namespace) -> int:
    if arguments.out.suffix in (".json", ".safetensors"):
        raise ValueError(f"--out {arguments.out} would be a model's own file: call it {arguments.out.stem}.onnx, say")
    check_writable(arguments.out, force=arguments.force)

    from rich.filesize import decimal as human_size

    from continuo.model.onnx_step import first_state, step_graph
    from predictor import Predictor

    predictor = Predictor.load(arguments.meta)
    graph = step_graph(predictor.model)
    facts = {
        "opening": first_state(predictor.model).tolist(),
        "levels": predictor.featurizer.spec.levels,
        "vocabulary": predictor.featurizer.spec.vocabulary,
        "steps_per_second": predictor.steps_per_second,
        "temperatures": predictor.temperatures(predictor.sampling),
    }
    for name, value in facts.items():
        graph.metadata_props.add(key=name, value=json.dumps(value))
    with atomic_write(arguments.out) as temporary:
        temporary.write_bytes(graph.SerializeToString())
    size = human_size(arguments.out.stat().st_size)
    print(f"{arguments.out}: {size}, weights of step {predictor.weights_step:,}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
