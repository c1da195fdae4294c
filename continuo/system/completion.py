"""Completion for bash and zsh: written by shtab from a parser, and for bash also behind `python`."""

import argparse
from pathlib import Path

DEVICES = ("auto", "cuda", "mps", "cpu")

PYTHON = """
# python SCRIPT.py ... is completed as SCRIPT.py ... is
_continuo_python() {
  local script="_shtab_$(_shtab_replace_nonword "${COMP_WORDS[1]##*/}")"
  if ((COMP_CWORD > 1)) && declare -F "$script" > /dev/null; then
    COMP_WORDS=("${COMP_WORDS[@]:1}") COMP_CWORD=$((COMP_CWORD - 1))
    "$script"
  else
    compopt -o filenames 2> /dev/null
    mapfile -t COMPREPLY < <(compgen -f -- "${COMP_WORDS[COMP_CWORD]}")
  fi
}
complete -o bashdefault -F _continuo_python python python3
"""


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """The text to source, for `shell` "bash" or "zsh"; paths are completed as files, those called DIR as folders."""
    import shtab

    _know_values(parser)
    text = shtab.complete(parser, shell)
    return text + PYTHON if shell == "bash" and parser.prog.endswith(".py") else text


def together(prog: str, parsers: dict[str, argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """A parser for the commands of `prog`, by name, to be completed; it parses nothing itself."""
    whole = argparse.ArgumentParser(prog)
    commands = whole.add_subparsers()
    for name, parser in parsers.items():
        _know_values(parser)
        for action in parser._actions:
            action.help = action.help and action.help.replace(":", ",")  # zsh reads a colon as the end of a word
        commands.add_parser(name, parents=[parser], add_help=False, help=(parser.description or name).split("\n")[0])
    return whole


def _know_values(parser: argparse.ArgumentParser) -> None:
    import shtab

    for action in parser._actions:
        if action.metavar in ("DIR", "FILE") or action.type is Path:
            action.complete = shtab.DIRECTORY if action.metavar == "DIR" else shtab.FILE  # type: ignore[attr-defined]
        if action.dest == "device":
            action.choices = DEVICES
