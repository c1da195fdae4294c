"""Train a model on your own recordings, and continue your score as sound.

    continuo train --corpus ~/recordings
    continuo predict --prompt song.musicxml --frames 500
    continuo COMMAND --help

This is the installed command; `python -m continuo` is the same.
"""

import sys
from collections.abc import Sequence

import continuo
from continuo.system.command_line import Parser
from continuo.system.paths import COMMANDS, script


def build_parser() -> Parser:
    parser = Parser("continuo", __doc__)
    listed = "; ".join(f"{name}: {words}" for name, words in COMMANDS.items())
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=listed)
    parser.add_argument("--version", action="version", version=continuo.__version__)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else [*argv]
    if words and words[0] in COMMANDS:
        return int(script(words[0]).main(words[1:]))
    build_parser().parse_args(words)
    raise AssertionError("the parser exits on its own")


if __name__ == "__main__":
    sys.exit(main())
