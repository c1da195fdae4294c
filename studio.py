"""Continuo as a page in the browser: continue a score and hear it while it is made, train on a folder, read reports.

python studio.py
python studio.py --port 9000 --open

It answers to this computer alone, needs no network and sends nothing anywhere. Models are the metadata files in the
folder where it is started, and the demo model; Ctrl-C ends it, and a training that runs then saves first.
"""

import argparse
import asyncio
import contextlib
import json
import re
import shutil
import socket
import sys
import tempfile
import webbrowser
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import continuo  # noqa: F401  first of all: says so where no packages are installed

# isort: split
import uvicorn
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from continuo.model import metadata
from continuo.system.command_line import Parser, run_main
from continuo.system.paths import EXAMPLES, HOME, MODELS, WEB
from continuo.system.text import printable
from web.background import Job
from web.request_worker import Answer, Worker
from web.security import Guard
from web.uploads import MAX_FILE_BYTES, Absent, Desk, Entry, TooLarge, TooMany

DEMO, DEMO_META = "demo", MODELS / "demo" / "chorales.json"
FROM_DEMO = "what the demo model knows"
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
MAX_JSON = 1 << 16  # bytes of a question
MAX_SECONDS = 600.0
SAMPLE_S, SAMPLE_LEAD_S = 6.0, 2.0  # of a sample while training, and of the prompt that is heard before it
SAID = 8  # lines of a script that are shown
CURVE_POINTS = 400
TAIL_BYTES = 1 << 18  # of a journal; what is older is in the curves at each validation
STATUSES: dict[type, int] = {Absent: 404, TooLarge: 413, TooMany: 429}
SVG_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:; sandbox; frame-ancestors 'self'"
)


class Question(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class TakeQuestion(Question):
    """A take that is asked for; `source` is what is continued, `lead_s` what is heard of it before the seam."""

    source: str
    model: str
    seconds: float = Field(gt=0, le=MAX_SECONDS)
    temperature: float = Field(1.0, ge=0, le=5)
    coarse: float | None = Field(None, ge=0, le=5)
    fine: float | None = Field(None, ge=0, le=5)
    seed: int = Field(0, ge=0, lt=2**53)
    lead_s: float = Field(5.0, ge=0, le=1e6)


class TrainQuestion(Question):
    """A training that is asked for; a model that exists keeps its corpus and its preset."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$")
    corpus: str = Field("", max_length=4096)
    preset: str = ""
    minutes: float = Field(gt=0, le=1e5)
    samples: bool = True


class ReportQuestion(Question):
    model: str
    thorough: bool = False


@dataclass
class Training:
    """The training that was started last, and the samples of what it had learned."""

    name: str
    job: Job
    journal: Path
    samples_wanted: bool
    stopping: bool = False
    sampled_ns: int = 0
    samples: list[dict[str, Any]] = field(default_factory=list)


class Studio:
    """What the page can ask for. `folder`: where models are; `desk`: where everything is kept that is not trained."""

    def __init__(self, folder: Path, desk: Path) -> None:
        self.folder, self.desk = folder, Desk(desk)
        self.worker = Worker([sys.executable, "-m", "web.take_worker"])
        self.training: Training | None = None
        self.reports: dict[str, Job] = {}

    # --- models ---------------------------------------------------------------------------------------------------

    def models(self) -> dict[str, Path]:
        """Metadata files with a state, by name."""
        found = {}
        for path in sorted(self.folder.glob("*.json")):
            with contextlib.suppress(ValueError, OSError):
                if (self.folder / metadata.load(path).state).is_file():
                    found[path.stem] = path
        return found | {DEMO: DEMO_META}

    def model(self, name: str) -> Path:
        try:
            return self.models()[name]
        except KeyError:
            raise ValueError(f"there is no trained model {printable(name)!r}: choose another one") from None

    async def choices(self, request: Request) -> Response:
        return JSONResponse({
            "models": list(self.models()),
            "presets": [FROM_DEMO, *sorted(path.stem for path in metadata.PRESETS.glob("*.json"))],
            "preset": metadata.DEFAULT_PRESET,
            "examples": sorted(path.stem for path in EXAMPLES.glob("*.musicxml")),
            "most_upload": MAX_FILE_BYTES,
            "training": self.training is not None and self.training.job.status is None,
        })  # fmt: skip

    # --- what is continued ----------------------------------------------------------------------------------------

    async def upload(self, request: Request) -> Response:
        """Keep a file that was brought along."""
        name = request.query_params.get("name", "")
        return JSONResponse(await self.desk.take_in(name, request.stream(), page_width(request)))

    async def example(self, request: Request) -> Response:
        """One of the scores that come along."""
        path = EXAMPLES / f"{Path(request.path_params['name']).name}.musicxml"
        if not path.is_file():
            raise Absent("there is no such example")
        with self.desk.new_folder() as folder:
            return JSONResponse(await self.desk.look(Entry(folder.name, path, path.name), page_width(request)))

    async def look(self, request: Request) -> Response:
        """What there is already, as it looks."""
        return JSONResponse(await self.desk.look(self.desk.entry(request.path_params["id"]), page_width(request)))

    async def file(self, request: Request) -> Response:
        """A sound, a page or a score; `as`: the name it is saved under."""
        path = self.desk.file(request.path_params["id"], request.path_params["file"])
        headers = {"content-security-policy": SVG_POLICY} if path.suffix == ".svg" else {}
        return FileResponse(path, filename=request.query_params.get("as"), headers=headers)

    # --- takes ----------------------------------------------------------------------------------------------------

    async def take(self, request: Request) -> Response:
        """A take, as lines of JSON while it is made."""
        question = await asked(request, TakeQuestion)
        entry, meta = self.desk.entry(question.source), self.model(question.model)

        async def talk(tell: Callable[[Answer], Awaitable[None]]) -> None:
            await self._make(entry, meta, question, tell)

        return Answers(talk)

    async def _make(
        self, source: Entry, meta: Path, question: TakeQuestion, tell: Callable[[Answer], Awaitable[None]]
    ) -> None:
        """Make a take of an entry; it becomes one itself."""

        async def told(answer: Answer) -> None:
            if answer["kind"] == "failed":
                answer["text"] = source.words(answer["text"]).replace(f"{meta.parent}/", "")
            elif answer["kind"] == "done":
                files = sorted(path.name for path in folder.iterdir())
                whole = folder / ("take.mid" if "take.mid" in files else "take.wav")
                self.desk.entries[folder.name] = Entry(folder.name, whole, source.name)
                answer |= {"id": folder.name, "files": files}
            await tell(answer)

        with self.desk.new_folder() as folder:
            values = question.model_dump(exclude={"source", "model"})
            paths = {"meta": str(meta), "prompt": str(source.path), "out": str(folder / "take.wav")}
            await self.worker.ask(values | paths, told)
            if folder.name not in self.desk.entries:
                shutil.rmtree(folder)

    # --- training -------------------------------------------------------------------------------------------------

    async def train(self, request: Request) -> Response:
        """Start or resume a training."""
        question = await asked(request, TrainQuestion)
        if self.training and self.training.job.status is None:
            raise ValueError(f"{self.training.name} is being trained: pause it first")
        name, meta = question.name, self.folder / f"{question.name}.json"
        if name == DEMO:
            raise ValueError(f"{DEMO} is the name of the model that comes along: choose another name")
        flags = ["--meta", meta.name, "--minutes", f"{question.minutes:g}"]
        if not meta.exists():
            flags += self._new_model(question)
        journal = self.desk.folder / f"{name}.jsonl"
        journal.unlink(missing_ok=True)
        flags += ["--journal", str(journal)]
        before = self.training.samples if self.training and self.training.name == name else []
        job = Job(HOME / "train.py", flags, folder=self.folder, log=self.desk.folder / f"{name}.train.log")
        self.training = Training(name, job, journal, question.samples, sampled_ns=self._saved_ns(meta), samples=before)
        return JSONResponse({})

    def _new_model(self, question: TrainQuestion) -> list[str]:
        corpus = question.corpus.strip()
        if not corpus:
            raise ValueError(f"type the folder of your music, or {metadata.EMBEDDED_CORPUS} for what comes along")
        if corpus != metadata.EMBEDDED_CORPUS:
            path = Path(corpus).expanduser()
            if not path.is_absolute() or not path.is_dir():
                raise ValueError(
                    f"{printable(corpus)} is not a folder: type the whole path, as /home/ann/piano or ~/piano"
                )
            corpus = str(path)
        begin = ["--preset", question.preset]
        if question.preset == FROM_DEMO:
            begin = ["--from", str(DEMO_META.with_suffix(".safetensors"))]
        return ["--corpus", corpus, *begin]

    def _saved_ns(self, meta: Path) -> int:
        """When the state of a model was written."""
        with contextlib.suppress(ValueError, OSError):
            return (self.folder / metadata.load(meta).state).stat().st_mtime_ns
        return 0

    async def pause(self, request: Request) -> Response:
        """Ask the training to save and stop."""
        if self.training:
            self.training.stopping = True
            self.training.job.stop()
        return JSONResponse({})

    async def watch(self, request: Request) -> Response:
        """How the training goes."""
        t = self.training
        if t is None:
            return JSONResponse({"state": "idle"})
        status = t.job.status
        state = "stopping" if t.stopping else "running"
        if status is not None:
            state = "paused" if t.stopping else "failed" if status else "done"
        past, held_out = self._past(t.name)
        lines = [json.loads(line) for line in whole_lines(t.journal)]
        learned = [[line["step"], line["training"]] for line in lines if line.get("training") is not None]
        first = learned[0][0] if learned else float("inf")
        curve = [point for point in past if point[0] < first] + learned
        return JSONResponse({
            "name": t.name,
            "state": state,
            "now": lines[-1] if lines and status is None else {},
            "said": t.job.said(SAID),
            "training": curve[:: max(1, len(curve) // CURVE_POINTS)] + curve[-1:],
            "held_out": held_out,
            "samples": t.samples,
        })  # fmt: skip

    def _past(self, name: str) -> tuple[list[list[float]], list[list[float]]]:
        """The curves at each validation: step and nats, while training and held out."""
        rows = whole_lines(self.folder / f"{name}.runs" / "training.csv")[1:]
        values = [[float(cell) for cell in row.split(",")] for row in rows]
        return [[v[0], v[2]] for v in values], [[v[0], v[3]] for v in values]

    async def sample_forever(self) -> None:
        """A sample of what was learned, whenever a training has saved and nobody waits for a take."""
        while True:
            await asyncio.sleep(1)
            t = self.training
            if t is None or not t.samples_wanted or t.job.status is not None or self.worker.busy:
                continue
            saved_ns = self._saved_ns(self.folder / f"{t.name}.json")
            if saved_ns > t.sampled_ns:
                t.sampled_ns = saved_ns
                with contextlib.suppress(ValueError, OSError):  # without room, say: the training goes on
                    await self._sample(t)

    async def _sample(self, t: Training) -> None:
        prompt = EXAMPLES / "hymn.musicxml"
        question = TakeQuestion(source="", model=t.name, seconds=SAMPLE_S, lead_s=0)

        async def told(answer: Answer) -> None:
            if answer["kind"] == "done":
                heard_from = max(0.0, answer["seam_s"] - SAMPLE_LEAD_S)
                t.samples.append({"id": answer["id"], "step": answer["step"], "from_s": heard_from})

        await self._make(Entry("", prompt, prompt.name), self.folder / f"{t.name}.json", question, told)

    # --- reports --------------------------------------------------------------------------------------------------

    async def measure(self, request: Request) -> Response:
        """Start evaluate.py for a model."""
        question = await asked(request, ReportQuestion)
        meta = self.model(question.model)
        if any(job.status is None for job in self.reports.values()):
            raise ValueError("a report is being made: wait for it")
        size = ["--pieces", "16", "--long", "120"] if question.thorough else ["--pieces", "4", "--long", "20"]
        shown = f"./{meta.name}" if meta.parent == self.folder else str(meta)
        flags = ["--meta", shown, "--out", f"./{question.model}.evaluation", "--force", *size]
        log = self.desk.folder / f"{question.model}.report.log"
        self.reports[question.model] = Job(HOME / "evaluate.py", flags, folder=self.folder, log=log)
        return JSONResponse({})

    async def report_state(self, request: Request) -> Response:
        name = request.query_params.get("model", "")
        self.model(name)
        job = self.reports.get(name)
        return JSONResponse({
            "state": "none" if job is None else "running" if job.status is None else "failed" if job.status else "done",
            "said": job.said(SAID) if job else [],
            "page": self._report(name).is_file(),
        })  # fmt: skip

    async def report(self, request: Request) -> Response:
        name = request.path_params["model"]
        self.model(name)
        if not self._report(name).is_file():
            raise Absent("there is no report yet")
        return FileResponse(self._report(name), headers={"content-security-policy": REPORT_POLICY})

    def _report(self, name: str) -> Path:
        return self.folder / f"{name}.evaluation" / "report.html"

    # --- the application ------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def life(self, app: Starlette) -> AsyncIterator[None]:
        warm = asyncio.create_task(self.worker.ask({"meta": str(DEMO_META)}, ignore))
        sampling = asyncio.create_task(self.sample_forever())
        try:
            yield
        finally:
            for task in (warm, sampling):
                task.cancel()
            await self.worker.close()
            for job in [*self.reports.values(), *([self.training.job] if self.training else [])]:
                await asyncio.to_thread(job.end, 60.0)

    def app(self, hosts: tuple[str, ...] = LOOPBACK) -> Starlette:
        """The web application, which answers where it is called by one of these names."""
        routes = [
            Route("/api/choices", self.choices),
            Route("/api/upload", self.upload, methods=["POST"]),
            Route("/api/examples/{name}", self.example, methods=["POST"]),
            Route("/api/look/{id}", self.look, methods=["POST"]),
            Route("/api/files/{id}/{file}", self.file),
            Route("/api/takes", self.take, methods=["POST"]),
            Route("/api/training", self.watch),
            Route("/api/training", self.train, methods=["POST"]),
            Route("/api/training/pause", self.pause, methods=["POST"]),
            Route("/api/report", self.report_state),
            Route("/api/report", self.measure, methods=["POST"]),
            Route("/report/{model}", self.report),
            Mount("/", StaticFiles(directory=WEB, html=True)),
        ]
        guards = [Middleware(Guard), Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)]
        refusals: dict[Any, Any] = {ValueError: refused, HTTPException: refused}
        return Starlette(routes=routes, middleware=guards, exception_handlers=refusals, lifespan=self.life)


class Answers(Response):
    """Lines of JSON while they come; whoever leaves gives up what was asked for."""

    def __init__(self, talk: Callable[[Callable[[Answer], Awaitable[None]]], Awaitable[None]]) -> None:
        super().__init__(media_type="application/x-ndjson")
        del self.headers["content-length"]
        self.talk = talk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})

        async def tell(answer: Answer) -> None:
            body = json.dumps(answer).encode() + b"\n"
            await send({"type": "http.response.body", "body": body, "more_body": True})

        async def talked() -> None:
            try:
                await self.talk(tell)
            except ValueError as error:
                await tell({"kind": "failed", "text": str(error)})

        async def left() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        tasks = {asyncio.ensure_future(talked()), asyncio.ensure_future(left())}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await send({"type": "http.response.body", "body": b""})


Q = TypeVar("Q", bound=Question)


async def asked(request: Request, kind: type[Q]) -> Q:
    """The question in the body of a request. Raises ValueError naming what is wrong in it."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_JSON:
            raise TooLarge("the question is too long")
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'the question'}: {first['msg']}") from None


async def refused(request: Request, error: Exception) -> Response:
    """What is wrong, in one line."""
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code)
    return JSONResponse({"error": str(error)}, STATUSES.get(type(error), 400))


def page_width(request: Request) -> int:
    """How wide the page that asks can show a score, pixels."""
    width = request.query_params.get("width", "")
    return int(width) if re.fullmatch(r"[0-9]{1,5}", width) else 1000


async def ignore(answer: Answer) -> None:
    """Nobody waits for this answer."""


def whole_lines(path: Path) -> list[str]:
    """The last lines of a file, as far as they are written to their end; none where there is no file."""
    if not path.is_file():
        return []
    with open(path, "rb") as file:
        skipped = file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        lines = file.read().decode().split("\n")[:-1]
    return lines[1:] if skipped else lines


def build_parser() -> argparse.ArgumentParser:
    parser = Parser("studio", __doc__)
    parser.add_argument("--port", type=int, default=8642, help="of the page (default: 8642; 0: any that is free)")
    parser.add_argument("--host", default="127.0.0.1", help="address that others reach; default: this computer alone")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    return run_main(lambda: _run(arguments), name="studio")


def _run(arguments: argparse.Namespace) -> int:
    listening = _listen(arguments.host, arguments.port)
    host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
    url = f"http://{host}:{listening.getsockname()[1]}/"
    if host not in LOOPBACK:
        warning = (
            "whoever reaches it may use this computer to train, and read folders: only in a network that you trust"
        )
        print(f"warning: this page answers to other computers; {warning}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="continuo-studio-") as desk:
        app = Studio(Path.cwd(), Path(desk)).app((*LOOPBACK, host))
        config = uvicorn.Config(app, log_level="warning", access_log=False, ws="none", timeout_graceful_shutdown=2)
        print(f"the studio is open at {url} (Ctrl-C ends it)", file=sys.stderr, flush=True)
        if arguments.open:
            webbrowser.open(url)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])
    return 0


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises ValueError where it cannot."""
    if host in ("", "0.0.0.0", "::"):
        raise ValueError(f"--host {host} means every address: name the one that others reach this computer by")
    if not 0 <= port < 1 << 16:
        raise ValueError(f"--port {port} must be 0 to 65535")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = error.strerror or "no such address"
        raise ValueError(
            f"cannot open --host {host} --port {port} ({reason}): try --port 0, any that is free"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
