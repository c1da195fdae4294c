"""The models that the studio offers: find, train and measure them with the commands that a terminal runs."""

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from continuo.model import metadata
from continuo.system.paths import HOME, MODELS
from continuo.system.text import printable
from web.processes import BackgroundProcess, complete_lines
from web.requests import RequestBody, parse
from web.security import REPORT_HEADERS

DEMO, DEMO_META = "demo", MODELS / "demo" / "chorales.json"
FROM_DEMO = "what the demo model learned"  # a choice of the page among the presets
LOG_LINES = 8  # of a command's output on the page
MAX_CURVE_POINTS = 400
QUICK_REPORT = ["--pieces", "4", "--long", "20"]
THOROUGH_REPORT = ["--pieces", "16", "--long", "120"]
Sample = dict[str, str | float]  # a take: `id`, `step` of the weights, and `from_s`, from which the page plays it


class TrainingBody(RequestBody):
    """The settings of a training. A model that exists keeps its corpus and its preset."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$")
    corpus: str = Field("", max_length=4096)
    preset: str = ""
    minutes: float = Field(gt=0, le=1e5)
    samples: bool = True


class ReportBody(RequestBody):
    model: str
    thorough: bool = False


@dataclass
class Training:
    """A training and the samples of its model."""

    name: str
    process: BackgroundProcess
    journal: Path  # lines of JSON that train.py writes for programs
    wants_samples: bool
    sampled_ns: int  # time at which the state of the last sample was written
    samples: list[Sample] = field(default_factory=list)


class Models:
    """The models of a folder and the demo model. `logs`: folder for the output of the commands."""

    def __init__(self, folder: Path, logs: Path) -> None:
        self.folder, self.logs = folder, logs
        self.training: Training | None = None
        self.reports: dict[str, BackgroundProcess] = {}

    def paths(self) -> dict[str, Path]:
        """Return the metadata files of trained models by name."""
        files = sorted(self.folder.glob("*.json"))
        return {path.stem: path for path in files if self.saved_ns(path.stem)} | {DEMO: DEMO_META}

    def path(self, name: str) -> Path:
        """Return the metadata file of a trained model; ValueError: there is none."""
        if found := self.paths().get(name):
            return found
        raise ValueError(f"there is no trained model {printable(name)!r}: choose another one")

    def saved_ns(self, name: str) -> int:
        """Return the time at which the state of a model was written, 0 if there is none."""
        with contextlib.suppress(ValueError, OSError):
            return (self.folder / metadata.load(self.folder / f"{name}.json").state).stat().st_mtime_ns
        return 0

    def processes(self) -> list[BackgroundProcess]:
        """Return the processes that were started last."""
        return [*self.reports.values(), *([self.training.process] if self.training else [])]

    async def train(self, request: Request) -> Response:
        wanted, last = await parse(request, TrainingBody), self.training
        name = wanted.name
        if last and last.process.running:
            raise ValueError(f"{last.name} is being trained: pause it first")
        if name == DEMO:
            raise ValueError(f"{DEMO} is the name of the model that comes with Continuo: choose another name")
        journal = self.logs / f"{name}.jsonl"
        flags = ["--meta", f"{name}.json", "--minutes", f"{wanted.minutes:g}", "--journal", str(journal)]
        if not (self.folder / f"{name}.json").exists():
            flags += _new_model_flags(wanted)
        journal.unlink(missing_ok=True)
        process = BackgroundProcess(HOME / "train.py", flags, folder=self.folder, log=self.logs / f"{name}.train.log")
        samples = last.samples if last and last.name == name else []
        self.training = Training(name, process, journal, wanted.samples, self.saved_ns(name), samples)
        return JSONResponse({})

    async def pause(self, request: Request) -> Response:
        if self.training:
            self.training.process.stop()
        return JSONResponse({})

    async def training_state(self, request: Request) -> Response:
        """Answer with the state of the training, its loss curves, its samples and what it prints."""
        training = self.training
        if training is None:
            return JSONResponse({"state": "idle"})
        entries = [json.loads(line) for line in complete_lines(training.journal)]
        recent = [(entry["step"], entry["training"]) for entry in entries if entry.get("training") is not None]
        rows = complete_lines(self.folder / f"{training.name}.runs" / "training.csv")[1:]
        validations = [[float(cell) for cell in row.split(",")] for row in rows]
        first = recent[0][0] if recent else float("inf")
        curve = [(row[0], row[2]) for row in validations if row[0] < first] + recent
        answer = {
            "name": training.name,
            "state": training.process.state,
            "now": entries[-1] if entries and training.process.running else {},
            "log": complete_lines(training.process.log)[-LOG_LINES:],
            "training": curve[:: max(1, len(curve) // MAX_CURVE_POINTS)] + curve[-1:],
            "held_out": [(row[0], row[3]) for row in validations],
            "samples": training.samples,
        }
        return JSONResponse(answer)

    async def measure(self, request: Request) -> Response:
        wanted = await parse(request, ReportBody)
        meta = self.path(wanted.model)
        if any(process.running for process in self.reports.values()):
            raise ValueError("another report is being made: wait until it is ready")
        shown = f"./{meta.name}" if meta.parent == self.folder else str(meta)
        flags = ["--meta", shown, "--out", f"./{wanted.model}.evaluation", "--force"]
        flags += THOROUGH_REPORT if wanted.thorough else QUICK_REPORT
        log = self.logs / f"{wanted.model}.report.log"
        self.reports[wanted.model] = BackgroundProcess(HOME / "evaluate.py", flags, folder=self.folder, log=log)
        return JSONResponse({})

    async def report_state(self, request: Request) -> Response:
        """Answer with the state of a model's report, and what evaluate.py prints."""
        name = request.query_params.get("model", "")
        page, process = self._report(name), self.reports.get(name)
        state, log = (process.state, complete_lines(process.log)[-LOG_LINES:]) if process else ("none", [])
        return JSONResponse({"state": state, "log": log, "page": page.is_file()})

    async def report(self, request: Request) -> Response:
        page = self._report(request.path_params["model"])
        if not page.is_file():
            raise HTTPException(404, "there is no report on this model yet")
        return FileResponse(page, headers=REPORT_HEADERS)

    def _report(self, name: str) -> Path:
        self.path(name)
        return self.folder / f"{name}.evaluation" / "report.html"


def _new_model_flags(request: TrainingBody) -> list[str]:
    """Return the flags of train.py that a new model needs; ValueError: the corpus is not a folder."""
    corpus = request.corpus.strip()
    if not corpus:
        raise ValueError(f"type the folder of your music, or {metadata.EMBEDDED_CORPUS} for the included chorales")
    if corpus != metadata.EMBEDDED_CORPUS:
        path = Path(corpus).expanduser()
        if not path.is_absolute() or not path.is_dir():
            raise ValueError(f"{printable(corpus)} is not a folder: type its full path, as /home/ann/piano or ~/piano")
        corpus = str(path)
    if request.preset == FROM_DEMO:
        return ["--corpus", corpus, "--from", str(DEMO_META.with_suffix(".safetensors"))]
    return ["--corpus", corpus, "--preset", request.preset]
