"""Read the JSON body of a request, and answer errors.

Functions that serve the page raise ValueError for bad input (status 400), and HTTPException for other status codes.
"""

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

MAX_BODY_BYTES = 1 << 16  # of a request other than an upload


class RequestBody(BaseModel):
    """The JSON object in the body of a request; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


Body = TypeVar("Body", bound=RequestBody)


async def parse(request: Request, kind: type[Body]) -> Body:
    """Return the body of a request; ValueError: it is not such an object; HTTPException: it is too large (413)."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException(413, f"the request is larger than {MAX_BODY_BYTES >> 10} KiB")
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'the request'}: {first['msg']}") from None


async def error_response(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code)
    return JSONResponse({"error": str(error)}, 400)
