"""The command line: ``python -m recbole_reg4rec [COMMAND] --setting=value ...``, see `COMMANDS`.

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
from collections.abc import Iterable, Mapping
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
# Arguments that are true when given alone.
_SWITCHES = frozenset({"resume", "check"})
# Arguments that mean this when given alone.
_ALONE = {"scale": "1e4,1e5"}


@dataclass(frozen=True)
class Command:
    """A sub-command: which function does the work, and which named arguments it takes.

    ``own``: arguments that it alone has, with their meaning; the function gets their text by name.
    """

    module: str
    function: str
    summary: str
    named: tuple[str, ...]
    own: Mapping[str, str] = field(default_factory=dict)


_DATA = ("dataset", "config_files", "data_path", "results_dir")
_TUNE = {
    "trials": "trials that the study is to have, over all workers and machines (default: 50)",
    "output": "folder of the study's results (default: RESULTS_DIR/tuning/NAME)",
    "space": "search space: a YAML file, or RecBole's .hyper or .test (default: properties/tuning/MODEL.yaml)",
    "objective": "metric on validation, or two such as NDCG@10,seconds (default: valid_metric)",
    "sampler": "tpe (default), random, gp, cmaes, qmc, nsgaii or grid",
    "pruner": "median (default), percentile, halving, hyperband or none",
    "storage": "a .db or .journal file or a database URL, shared by all who work on the study (default: in OUTPUT)",
    "name": "name of the study in its storage (default: MODEL-DATASET)",
    "workers": "processes on this machine (default: 1)",
    "timeout": "seconds after which no trial begins",
    "study": "one setting, e.g. codebooks or M: its curve instead of a search",
    "values": "what --study tries, e.g. [2,4,8] (default: from the search space)",
}
_GRID = {
    "models": "models, separated by commas, a variant of one as MODEL:VARIANT",
    "datasets": "data sets, separated by commas",
    "seeds": "how many seeds (default: 5), or which, separated by commas",
    "variants": "YAML file of your own variants, MODEL: {VARIANT: {setting: value}}",
    "check": "recompute the tables that are there and say which differ",
}
_EVALUATE = {
    "part": "valid (default) or test",
    "vary": "one setting of decoding, e.g. corp_threshold or beam_width",
    "values": "what it is set to, e.g. [5,10,20]; the first is what the others are compared with",
}
_EXPLAIN = {
    "users": 'ids of users of the test set, separated by commas or as ["a", "b, c"] (default: its first user)',
    "items": "ids of a history given by hand, oldest first, separated by commas",
    "top": "how many items (default: 10)",
    "json": "file to write the explanations to as well",
}
_BENCHMARK = {
    "datasets": "data sets, separated by commas (default: ml-100k)",
    "models": "those to time, separated by commas (default: all that there are)",
    "seconds": "how long a time-slice lasts (default: 5)",
    "repeats": "slices of each model's training, and of its evaluation (default: 3)",
    "threads": "threads of each model (default: torch's own number)",
    "epochs": "epochs to train before, whose accuracy is told (default: 0, a slice to warm up)",
    "scale": f"also synthetic catalogues of so many items (alone: {_ALONE['scale']})",
}
_STUDY = "recbole_reg4rec.study"
COMMANDS = {
    "run": Command(f"{_STUDY}.quick_start", "run", "train and evaluate a model (the default)", tuple(_NAMED)),
    "tokenize": Command(f"{_STUDY}.tokenize", "tokenize", "fit and inspect the item codes alone", _DATA),
    "tune": Command(f"{_STUDY}.tuning.command", "tune", "search for settings", ("model", *_DATA), _TUNE),
    "leaderboard": Command(
        f"{_STUDY}.leaderboard.command", "leaderboard", "train a grid and write its tables", _DATA[1:], _GRID
    ),
    "evaluate": Command(
        f"{_STUDY}.evaluation",
        "evaluate",
        "rank once more by a trained model, decoding varied",
        ("model", *_DATA, "checkpoint"),
        _EVALUATE,
    ),
    "explain": Command(
        f"{_STUDY}.explain_report",
        "explain",
        "say why a trained REG4Rec recommends what it does",
        ("dataset", "config_files", "data_path", "checkpoint"),
        _EXPLAIN,
    ),
    "benchmark": Command(
        f"{_STUDY}.benchmark.command", "benchmark", "time all models side by side", _DATA[1:], _BENCHMARK
    ),
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
    parsed, own = Arguments(name), COMMANDS[name].own
    while rest:
        key, value, rest = _next_argument(rest, {*_NAMED, *own})
        if key in _NAMED and key not in COMMANDS[name].named:
            raise UserError(f"`{name}` takes no --{key}; leave it out")
        target = parsed.named if key in _NAMED or key in own else parsed.settings
        if target.get(key, value) != value:
            raise UserError(f"--{key} is given twice, as `{target[key]}` and as `{value}`; give it once")
        target[key] = value
    if "dataset" in COMMANDS[name].named and not parsed.named.get("dataset"):
        raise UserError("no data set is named; add --dataset=NAME, e.g. --dataset=ml-100k, or see --help")
    return parsed


def _command_name(argv: list[str]) -> str:
    return "run" if not argv or argv[0].startswith("-") else argv[0]


def _next_argument(rest: list[str], names: Iterable[str]) -> tuple[str, str, list[str]]:
    """The first argument as name and text, and the arguments behind it."""
    match = re.fullmatch(r"--([A-Za-z_][\w-]*)(?:=(.*))?", rest[0], re.DOTALL)
    if match is None:
        raise UserError(
            f"cannot read the argument `{rest[0]}`; settings are given as --name=value, lists as --name=[a,b]"
        )
    key, value, rest = match.group(1).replace("-", "_"), match.group(2), rest[1:]
    takes_next = key in names and (key not in _SWITCHES or (rest and rest[0].lower() in ("true", "false")))
    if value is None and takes_next and rest and not rest[0].startswith("--"):
        value, rest = rest[0], rest[1:]
    if value is None and key in names:
        value = _ALONE.get(key)
    if key in names and key in _SWITCHES and value is not None and value.lower() not in ("true", "false"):
        raise UserError(f"--{key} is `{value}`, but it must be true or false; --{key} alone means true")
    if not value and key in names and key not in _SWITCHES:
        raise UserError(f"--{key} has no value; write --{key}=...")
    return key, "True" if value is None else value, rest


def _keywords(parsed: Arguments) -> dict[str, Any]:
    """The keyword arguments of the function behind a command."""
    named, settings = dict(parsed.named), dict(parsed.settings)
    if "data_path" in named:
        settings["data_path"] = named["data_path"]
    keywords: dict[str, Any] = {
        "config_file_list": _files(named.get("config_files")),
        "command_line": settings,
    }
    command = COMMANDS[parsed.command]
    takes = (*command.named, *command.own)
    keywords.update({name: named[name] for name in ("dataset", *command.own) if name in named})
    keywords.update({name: named.get(name, "false").lower() == "true" for name in takes if name in _SWITCHES})
    if "results_dir" in takes:
        keywords["results_dir"] = os.path.expanduser(named.get("results_dir", "results"))
    if "model" in takes:
        keywords["model"] = named.get("model", "REG4Rec")
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


def help_text(model: str = "REG4Rec") -> str:
    """What ``--help`` prints, with the settings of one model."""
    from recbole_reg4rec.config.help import settings_help

    width = min(shutil.get_terminal_size().columns, 100)
    rows = [f"  {name:<13} {command.summary}" for name, command in COMMANDS.items()]
    commands = "\n".join(rows)
    arguments = _arguments_help(_NAMED, width)
    own = "".join(
        f"\n\narguments of {name}:\n{_arguments_help(command.own, width)}"
        for name, command in COMMANDS.items()
        if command.own
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
  --help           print this; with --model=NAME the settings of that model
  --version        print the version{own}

{settings_help(model, width)}"""


def _model_of(argv: list[str]) -> str:
    """The model that a command line names, whatever else is on it."""
    named = "REG4Rec"
    for text, following in zip(argv, [*argv[1:], ""], strict=True):
        key, given, value = text.partition("=")
        if key == "--model":
            named = value if given else following
    return named


def _arguments_help(arguments: Mapping[str, str], width: int) -> str:
    return "\n".join(
        textwrap.fill(
            f"  {'--' + name + ('' if name in _SWITCHES else '='):<16} {meaning}",
            width,
            subsequent_indent=" " * 19,
        )
        for name, meaning in arguments.items()
    )


def main(argv: list[str]) -> int:
    """Run one command line, without the program's name.

    Returns:
        The exit code: 0 done, 1 done in part (``leaderboard``), 2 a mistake of the user's (one sentence on standard
        error), 130 interrupted.
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
        print(help_text(_model_of(argv)))
        return EXIT_OK
    if "--version" in argv:
        print(f"recbole_reg4rec {__version__}")
        return EXIT_OK
    parsed = parse(argv)
    process = importlib.import_module("recbole_reg4rec.process")
    process.use_huge_pages(os.environ)
    if parsed.command != "benchmark":  # which measures the machine as it is
        process.look_around()
    importlib.import_module("recbole_reg4rec.versions").check_versions()
    command = COMMANDS[parsed.command]
    found = getattr(importlib.import_module(command.module), command.function)(**_keywords(parsed))
    # Who can end well in part says so; the others return what they made.
    return found if isinstance(found, int) else EXIT_OK


def main_and_exit() -> None:
    """Run this process's command line and end the process: the console script."""
    sys.exit(main(sys.argv[1:]))
