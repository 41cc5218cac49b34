"""The command line: ``python -m recbole_reg4rec [run|tokenize] --dataset=D ...``.

Only the script reads ``sys.argv``; :func:`main` takes its arguments, so that a program that calls it, pytest say,
keeps its own command line to itself. Heavy modules are imported when a command starts, not for ``--help``.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shutil
import sys
import textwrap
from dataclasses import dataclass, field
from typing import Any

from recbole_reg4rec import __version__
from recbole_reg4rec.errors import UserError

EXIT_OK, EXIT_USER_ERROR, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 0, 2, 130, 141

# Arguments with a meaning of their own; everything else after `--` is a setting.
_NAMED = {
    "dataset": "name of the data set: the folder DATA_PATH/NAME with its atomic files (needed)",
    "model": "REG4Rec (default), or the name of a RecBole sequential model, e.g. SASRec",
    "config_files": "YAML files of settings, separated by commas; a later one wins",
    "data_path": "folder that holds the data sets (default: dataset)",
    "results_dir": "folder that run records are written to (default: results)",
    "checkpoint": "file to keep the training state in, and to resume from",
    "resume": "continue an interrupted run with the same settings",
}


@dataclass(frozen=True)
class Command:
    """A sub-command: which function does the work, and which named arguments it takes."""

    module: str
    function: str
    summary: str
    named: tuple[str, ...]


_DATA = ("dataset", "config_files", "data_path", "results_dir")
COMMANDS = {
    "run": Command(
        "recbole_reg4rec.study.quick_start", "run", "train and evaluate a model (the default)", tuple(_NAMED)
    ),
    "tokenize": Command("recbole_reg4rec.study.tokenize", "tokenize", "fit and inspect the item codes alone", _DATA),
}


@dataclass
class Arguments:
    """A command line taken apart: the command, the named arguments given, and the settings, all as text."""

    command: str
    named: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)


def parse(argv: list[str]) -> Arguments:
    """Take a command line apart.

    Raises:
        UserError: an unknown command, an argument without ``--`` or without its value, an argument given twice
            with different values, one that the command does not take, or no ``--dataset``.
    """
    name = _command_name(argv)
    rest = argv[1:] if argv[:1] == [name] else argv
    if name not in COMMANDS:
        raise UserError(f"there is no command `{name}`, only {', '.join(COMMANDS)}; settings are given as --name=value")
    parsed = Arguments(name)
    while rest:
        key, value, rest = _next_argument(rest)
        if key in _NAMED and key not in COMMANDS[name].named:
            raise UserError(f"`{name}` takes no --{key}; leave it out")
        target = parsed.named if key in _NAMED else parsed.settings
        if target.get(key, value) != value:
            raise UserError(f"--{key} is given twice, as `{target[key]}` and as `{value}`; give it once")
        target[key] = value
    if not parsed.named.get("dataset"):
        raise UserError("no data set is named; add --dataset=NAME, e.g. --dataset=ml-100k, or see --help")
    return parsed


def _command_name(argv: list[str]) -> str:
    return "run" if not argv or argv[0].startswith("-") else argv[0]


def _next_argument(rest: list[str]) -> tuple[str, str, list[str]]:
    """The first argument as name and text, and the arguments behind it."""
    match = re.fullmatch(r"--([A-Za-z_][\w-]*)(?:=(.*))?", rest[0], re.DOTALL)
    if match is None:
        raise UserError(
            f"cannot read the argument `{rest[0]}`; settings are given as --name=value, lists as --name=[a,b]"
        )
    key, value, rest = match.group(1).replace("-", "_"), match.group(2), rest[1:]
    takes_next = key in _NAMED and (key != "resume" or (rest and rest[0].lower() in ("true", "false")))
    if value is None and takes_next and rest and not rest[0].startswith("--"):
        value, rest = rest[0], rest[1:]
    if key == "resume" and value is not None and value.lower() not in ("true", "false"):
        raise UserError(f"--resume is `{value}`, but it must be true or false; --resume alone means true")
    if not value and key in _NAMED and key != "resume":
        raise UserError(f"--{key} has no value; write --{key}=...")
    return key, "True" if value is None else value, rest


def _keywords(parsed: Arguments) -> dict[str, Any]:
    """The keyword arguments of the function behind a command."""
    named, settings = dict(parsed.named), dict(parsed.settings)
    if "data_path" in named:
        settings["data_path"] = named["data_path"]
    keywords: dict[str, Any] = {
        "dataset": named["dataset"],
        "config_file_list": _files(named.get("config_files")),
        "command_line": settings,
        "results_dir": os.path.expanduser(named.get("results_dir", "results")),
    }
    takes = COMMANDS[parsed.command].named
    if "model" in takes:
        keywords["model"] = named.get("model", "REG4Rec")
    if "resume" in takes:
        keywords["resume"] = named.get("resume", "false").lower() == "true"
    if "checkpoint" in takes:
        checkpoint = named.get("checkpoint")
        keywords["checkpoint"] = os.path.expanduser(checkpoint) if checkpoint else None
    return keywords


def _files(text: str | None) -> list[str] | None:
    if text is None:
        return None
    if os.path.isfile(text):  # one file whose path holds a space or a comma
        return [text]
    return [os.path.expanduser(path) for path in re.split(r"[,\s]+", text) if path] or None


def help_text() -> str:
    """What ``--help`` prints."""
    from recbole_reg4rec.config.help import settings_help

    width = min(shutil.get_terminal_size().columns, 100)
    rows = [f"  {name:<13} {command.summary}" for name, command in COMMANDS.items()]
    commands = "\n".join(rows)
    arguments = "\n".join(
        textwrap.fill(
            f"  {'--' + name + ('' if name == 'resume' else '='):<16} {meaning}",
            width,
            subsequent_indent=" " * 19,
        )
        for name, meaning in _NAMED.items()
    )
    return f"""REG4Rec {__version__}: a reasoning-enhanced generative recommender, as an extension of RecBole.

usage: python run_recbole_reg4rec.py [command] --dataset=NAME [--model=NAME] [--setting=value ...]

examples:
  python run_recbole_reg4rec.py --dataset=ml-100k
  python run_recbole_reg4rec.py --dataset=ml-1m --model=SASRec --epochs=50 '--topk=[5,10]'

commands:
{commands}

arguments:
{arguments}
  --help           print this
  --version        print the version

{settings_help(width=width)}"""


def main(argv: list[str]) -> int:
    """Run one command line, without the program's name.

    Returns:
        The exit code: 0 done, 2 a mistake of the user's (one sentence on standard error), 130 interrupted.
    """
    try:
        code = _main(argv)
        sys.stdout.flush()
        return code
    except UserError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        resumable = "resume" in COMMANDS[_command_name(argv)].named
        advice = "; the same command with --resume continues from the last checkpoint" if resumable else ""
        print(f"interrupted{advice}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader has gone, as with `| head`; let the interpreter's last flush go nowhere.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE


def _main(argv: list[str]) -> int:
    if any(argument in ("--help", "-h") for argument in argv) or argv == ["help"]:
        print(help_text())
        return EXIT_OK
    if "--version" in argv:
        print(f"recbole_reg4rec {__version__}")
        return EXIT_OK
    parsed = parse(argv)
    importlib.import_module("recbole_reg4rec.versions").check_versions()
    command = COMMANDS[parsed.command]
    getattr(importlib.import_module(command.module), command.function)(**_keywords(parsed))
    return EXIT_OK


def main_and_exit() -> None:
    """Run this process's command line and end the process: the console script."""
    sys.exit(main(sys.argv[1:]))
