"""Requests of the page: their JSON bodies, and the errors that answer them."""

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

MAX_BODY_BYTES = 1 << 16  # of a request other than an upload


class TooLarge(ValueError):
    """A request or a file is larger than its limit."""


class NotFound(ValueError):
    """A file or a page does not exist."""


class PageRequest(BaseModel):
    """The body of a request, without unknown keys."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


Body = TypeVar("Body", bound=PageRequest)


async def parse(request: Request, kind: type[Body]) -> Body:
    """Read the body of a request. Raises ValueError, TooLarge among them."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise TooLarge(f"the request is larger than {MAX_BODY_BYTES >> 10} KiB")
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'the request'}: {first['msg']}") from None


async def error_response(request: Request, error: Exception) -> Response:
    """Answer with the message of an error and its status code."""
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code)
    status = 404 if isinstance(error, NotFound) else 413 if isinstance(error, TooLarge) else 400
    return JSONResponse({"error": str(error)}, status)
