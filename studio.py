"""Open Continuo as a page in the browser: continue music, listen while it is made, train a model, read its report.

    %(prog)s
    %(prog)s --port 9000 --open

The page answers to this computer alone, needs no network and sends nothing anywhere. It offers the models whose
metadata files are in the current folder, and the demo model. Ctrl-C ends it; a training that runs saves first.
"""

import argparse
import contextlib
import socket
import sys
import tempfile
import webbrowser
from pathlib import Path

from continuo.system.command_line import Parser, run_main

ADDRESS = "127.0.0.1"


def build_parser() -> argparse.ArgumentParser:
    parser = Parser("studio", __doc__)
    parser.add_argument("--port", type=int, default=8642, help="port of the page; 0 takes any free one (default: 8642)")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    return run_main(lambda: _run(arguments), name="studio")


def _run(arguments: argparse.Namespace) -> int:
    listening = _listen(arguments.port)

    import uvicorn

    from web.server import Studio

    url = f"http://{ADDRESS}:{listening.getsockname()[1]}/"
    with tempfile.TemporaryDirectory(prefix="continuo-studio-") as files:
        app = Studio(Path.cwd(), Path(files)).app()
        config = uvicorn.Config(app, log_level="warning", access_log=False, ws="none", timeout_graceful_shutdown=2)
        print(f"the studio is open at {url} (Ctrl-C ends it)", file=sys.stderr, flush=True)
        if arguments.open:
            webbrowser.open(url)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])
    return 0


def _listen(port: int) -> socket.socket:
    """Return a socket that listens on this computer alone; ValueError: the port is invalid or in use."""
    if not 0 <= port < 1 << 16:
        raise ValueError(f"--port {port} must be 0 to 65535")
    try:
        return socket.create_server((ADDRESS, port))
    except OSError as error:
        advice = "try --port 0, which takes any free one"
        raise ValueError(f"cannot open --port {port} ({error.strerror}): {advice}") from None


if __name__ == "__main__":
    sys.exit(main())
