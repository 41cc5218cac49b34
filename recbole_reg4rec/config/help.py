"""The settings part of ``--help``: every setting of this package with its default and comment."""

from __future__ import annotations

import json
import shutil
import textwrap
from pathlib import Path
from typing import Any

from recbole_reg4rec.config.settings import Setting, describe_settings, properties_dir

_RECBOLE_DOCS = "https://recbole.io/docs/user_guide/config_settings.html"


def settings_help(model: str = "REG4Rec", width: int | None = None) -> str:
    """Text that lists this package's settings, grouped by property file and heading.

    Args:
        model: whose model settings are listed beside the ones every model shares.
        width: columns; the terminal's, 100 at most, when not given.

    Raises:
        UserError: a property file is no valid YAML.
    """
    width = width or min(shutil.get_terminal_size().columns, 100)
    root = properties_dir()
    parts = []
    for title, path in (
        ("settings of every model", root / "overall.yaml"),
        (f"settings of {model}", root / "model" / f"{model}.yaml"),
    ):
        if path.is_file():
            shown = Path(root.name) / path.relative_to(root)
            parts.append(f"{title} ({shown.as_posix()}):\n" + _list(describe_settings(path), width))
        else:
            parts.append(f"{title}: none in this package; where RecBole knows the model, its pages do")
    note = (
        "Every setting is given as --name=value; a list as --name=[a,b], a dictionary as --name=\"{'a': 1}\", a switch "
        "also as --name alone. Settings in files of --config_files have the same names, in YAML; the command line wins "
        "over files, a later file over an earlier one. RecBole's own settings work too; they are documented at "
        f"{_RECBOLE_DOCS}."
    )
    return "\n\n".join([*parts, textwrap.fill(note, width, break_on_hyphens=False)])


def _list(settings: list[Setting], width: int) -> str:
    lines: list[str] = []
    section = ""
    for setting in settings:
        if setting.section != section:
            section = setting.section
            lines.append(f"  {section}:")
        head = f"--{setting.name}={_written(setting.value)}"
        indent = " " * 8
        lines += textwrap.wrap(head, width, initial_indent=" " * 4, subsequent_indent=indent, break_on_hyphens=False)
        if setting.comment:
            lines += textwrap.wrap(setting.comment, width, initial_indent=indent, subsequent_indent=indent)
    return "\n".join(lines)


def _written(value: Any) -> str:
    """A default as it would be written on the command line."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False) if not value or value != value.strip() else value
    return str(value)
