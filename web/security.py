"""Security policies of the studio: which requests it answers, and what its pages may load.

The server listens on this computer alone, but every site that is open in a browser here can send requests to it.
"""

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
PAGE_HEADER = "x-continuo"  # sent by the page with each POST; browsers do not let other sites send it
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; "
    "connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
INLINE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
SCORE_HEADERS = {"content-security-policy": INLINE_POLICY}
REPORT_HEADERS = {"content-security-policy": f"{INLINE_POLICY}; img-src data:; media-src data:; frame-ancestors 'self'"}
HEADERS = {
    "content-security-policy": PAGE_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class SameOrigin:
    """ASGI middleware that refuses requests of other sites and adds `HEADERS` to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        headers = Headers(scope=scope)
        origin = headers.get("origin")
        foreign = origin is not None and origin.partition("//")[2] != headers.get("host")
        app = self.app
        if foreign or (scope["method"] not in ("GET", "HEAD") and PAGE_HEADER not in headers):
            app = JSONResponse({"error": "only the studio's own page may send this request"}, 403)
        await app(scope, receive, send_with_headers)


stop_rebinding = Middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK_HOSTS, www_redirect=False)  # of DNS names
MIDDLEWARE = [Middleware(SameOrigin), stop_rebinding]
