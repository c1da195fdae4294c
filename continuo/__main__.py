"""Train a model on your own recordings, and continue your score as sound.

    continuo train --corpus ~/recordings
    continuo predict --prompt song.musicxml --frames 500
    continuo COMMAND --help

This is the installed command; `python -m continuo` is the same. In a checkout each command is a script, as train.py.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import continuo
from continuo.system.command_line import Parser
from continuo.system.paths import HOME, script

COMMANDS = {
    "train": "train a model on a folder of music",
    "predict": "continue a score, MIDI file or recording",
    "evaluate": "how good a trained model is, as a page",
    "corpus": "what would be heard in a folder, and what not",
    "studio": "all of it in a browser",
    "export": "a model's step for ONNX Runtime",
}


def commands() -> dict[str, str]:
    """What there is, each with a few words."""
    return {name: words for name, words in COMMANDS.items() if (HOME / f"{name}.py").exists()}


class _PrintCompletion(argparse.Action):
    """The completion of all commands at once."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        from continuo.system.completion import completion, together

        print(completion(together("continuo", {name: script(name).build_parser() for name in commands()}), values))
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    parser = Parser("continuo", __doc__, completion=_PrintCompletion)
    listed = "; ".join(f"{name}: {words}" for name, words in commands().items())
    parser.add_argument("command", choices=commands(), metavar="COMMAND", help=listed)
    parser.add_argument("--version", action="version", version=continuo.__version__)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else [*argv]
    if words and words[0] in commands():
        status: int = script(words[0]).main(words[1:])
        return status
    build_parser().parse_args(words)
    raise AssertionError("the parser has left or refused")


if __name__ == "__main__":
    sys.exit(main())
