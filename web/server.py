"""The studio's server. It stays responsive: child processes read files, make takes, train and measure."""

import asyncio
import contextlib
import json
import shutil
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

from pydantic import Field
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from continuo.model import presets
from continuo.system.paths import EXAMPLES, WEB
from web.models import DEMO_META, FROM_DEMO, Models, Training
from web.processes import Answer, RequestWorker
from web.requests import RequestBody, error_response, parse
from web.security import MIDDLEWARE, SCORE_HEADERS
from web.uploads import MAX_FILE_BYTES, FileStore, StoredFile

MAX_TAKE_S = 600.0
SAMPLE_S, SAMPLE_LEAD_S = 6.0, 2.0  # of a sample while training, and of the prompt that is played before it
SAMPLE_PROMPT = EXAMPLES / "hymn.musicxml"
END_TIMEOUT_S = 60.0  # for a training to save when the studio ends
DEFAULT_WIDTH = 1000  # of an engraved page in pixels


class TakeBody(RequestBody):
    source: str  # identifier of the file to continue
    model: str
    seconds: float = Field(gt=0, le=MAX_TAKE_S)
    temperature: float = Field(1.0, ge=0, le=5)
    coarse: float | None = Field(None, ge=0, le=5)  # relative to `temperature`; None: as the model's metadata say
    fine: float | None = Field(None, ge=0, le=5)
    seed: int = Field(0, ge=0, lt=2**53)
    lead_s: float = Field(5.0, ge=0, le=1e6)  # of the prompt before the join that the page plays


class Studio:
    """The web application. `folder`: where the models are; `files`: folder for everything else, until the end."""

    def __init__(self, folder: Path, files: Path) -> None:
        self.models = Models(folder, logs=files)
        self.store = FileStore(files)
        self.worker = RequestWorker([sys.executable, "-m", "web.take_worker"])

    def app(self) -> Starlette:
        models = self.models
        routes = [
            Route("/api/choices", self.choices),
            Route("/api/upload", self.upload, methods=["POST"]),
            Route("/api/examples/{name}", self.example, methods=["POST"]),
            Route("/api/preview/{id}", self.preview, methods=["POST"]),
            Route("/api/files/{id}/{file}", self.file),
            Route("/api/takes", self.take, methods=["POST"]),
            Route("/api/training", models.training_state),
            Route("/api/training", models.train, methods=["POST"]),
            Route("/api/training/pause", models.pause, methods=["POST"]),
            Route("/api/report", models.report_state),
            Route("/api/report", models.measure, methods=["POST"]),
            Route("/report/{model}", models.report),
            Mount("/", StaticFiles(directory=WEB, html=True)),
        ]
        handlers = {ValueError: error_response, HTTPException: error_response}
        return Starlette(routes=routes, middleware=MIDDLEWARE, exception_handlers=handlers, lifespan=self.lifespan)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Make samples while the server runs, and end every child process after it."""
        samples = asyncio.create_task(self.make_samples())
        try:
            yield
        finally:
            samples.cancel()
            await self.worker.close()
            for process in self.models.processes():
                await asyncio.to_thread(process.end, END_TIMEOUT_S)

    async def choices(self, request: Request) -> Response:
        training = self.models.training
        choices = {
            "models": list(self.models.paths()),
            "presets": [FROM_DEMO, *presets.preset_names()],
            "preset": presets.DEFAULT_PRESET,
            "examples": sorted(path.stem for path in EXAMPLES.glob("*.musicxml")),
            "max_upload_bytes": MAX_FILE_BYTES,
            "training": training is not None and training.process.running,
        }
        return JSONResponse(choices)

    async def upload(self, request: Request) -> Response:
        name = request.query_params.get("name", "")
        return JSONResponse(await self.store.save_upload(name, request.stream(), page_width(request)))

    async def example(self, request: Request) -> Response:
        path = EXAMPLES / f"{Path(request.path_params['name']).name}.musicxml"
        if not path.is_file():
            raise HTTPException(404, "there is no such example")
        with self.store.new_folder() as folder:
            return JSONResponse(await self.store.preview(StoredFile(folder.name, path, path.name), page_width(request)))

    async def preview(self, request: Request) -> Response:
        file = self.store.get(request.path_params["id"])
        return JSONResponse(await self.store.preview(file, page_width(request)))

    async def file(self, request: Request) -> Response:
        """Answer with a sound, an engraved page or a score; `as`: the name of the download."""
        path = self.store.path(request.path_params["id"], request.path_params["file"])
        headers = SCORE_HEADERS if path.suffix == ".svg" else None
        return FileResponse(path, filename=request.query_params.get("as"), headers=headers)

    async def take(self, request: Request) -> Response:
        """Answer with lines of JSON while a take is made; the take is cancelled if the page closes the connection."""
        wanted = await parse(request, TakeBody)
        answers = self.make_take(self.store.get(wanted.source), self.models.path(wanted.model), wanted)
        return StreamingResponse(json_lines(answers), media_type="application/x-ndjson")

    async def make_take(self, source: StoredFile, meta: Path, wanted: TakeBody) -> AsyncGenerator[Answer]:
        """Yield the worker's answers while it makes a take, and store the take; ValueError: there is no room for it."""
        values = wanted.model_dump(exclude={"source", "model"})
        with self.store.new_folder() as folder:
            paths = {"meta": str(meta), "prompt": str(source.path), "out": str(folder / "take.wav")}
            async with contextlib.aclosing(self.worker.ask(values | paths)) as answers:
                async for answer in answers:
                    if answer["kind"] == "failed":
                        answer["text"] = source.public(answer["text"]).replace(f"{meta.parent}/", "")
                    elif answer["kind"] == "done":
                        names = sorted(path.name for path in folder.iterdir())
                        best = folder / ("take.mid" if "take.mid" in names else "take.wav")
                        self.store.files[folder.name] = StoredFile(folder.name, best, source.name)
                        answer.update({"id": folder.name, "files": names})
                    yield answer
            if folder.name not in self.store.files:
                shutil.rmtree(folder)

    async def make_samples(self) -> None:
        """Load the demo model for the first take; then make a sample whenever a training has saved."""
        async for _ in self.worker.ask({"meta": str(DEMO_META)}):
            pass
        while True:
            await asyncio.sleep(1)
            training = self.models.training
            if not (training and training.wants_samples and training.process.running) or self.worker.turn.locked():
                continue
            saved_ns = self.models.saved_ns(training.name)
            if saved_ns > training.sampled_ns:
                training.sampled_ns = saved_ns
                with contextlib.suppress(ValueError, OSError):  # the training goes on without this sample
                    await self._make_sample(training)

    async def _make_sample(self, training: Training) -> None:
        source = StoredFile("", SAMPLE_PROMPT, SAMPLE_PROMPT.name)
        wanted = TakeBody(source="", model=training.name, seconds=SAMPLE_S, lead_s=0)
        async for answer in self.make_take(source, self.models.folder / f"{training.name}.json", wanted):
            if answer["kind"] == "done":
                from_s = max(0.0, answer["seam_s"] - SAMPLE_LEAD_S)
                training.samples.append({"id": answer["id"], "step": answer["step"], "from_s": from_s})


async def json_lines(answers: AsyncGenerator[Answer]) -> AsyncIterator[str]:
    """Yield answers as lines of JSON; an error becomes the last one."""
    try:
        async with contextlib.aclosing(answers):
            async for answer in answers:
                yield json.dumps(answer) + "\n"
    except ValueError as error:
        yield json.dumps({"kind": "failed", "text": str(error)}) + "\n"


def page_width(request: Request) -> int:
    """Return the width in pixels that the page has for a score."""
    return int(request.query_params.get("width", DEFAULT_WIDTH))
