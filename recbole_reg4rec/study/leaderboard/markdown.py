"""A board as Markdown."""

from __future__ import annotations

from recbole_reg4rec.study.leaderboard.rows import Board
from recbole_reg4rec.study.leaderboard.tables import Entry, Table, headline, sections


def markdown(board: Board) -> str:
    """The text of ``results/<dataset>.md``."""
    parts = [f"# Leaderboard: {board.dataset}", headline(board)]
    for section in sections(board):
        parts.append(f"## {section.title}")
        if section.text:
            parts.append(section.text)
        for table in section.tables:
            if table.title:
                parts.append(f"### {table.title}")
            parts.append(_table(table))
            if table.note:
                parts.append(table.note.replace("*:", "\\*:"))
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    lines = [_line([_escape(name) for name in table.header]), _line(["---"] * len(table.header))]
    lines += [_line([_entry(entry) for entry in line]) for line in table.lines]
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _entry(entry: Entry) -> str:
    if entry.links:
        return ", ".join(f"[{_escape(text)}]({address})" for text, address in entry.links)
    text = _escape(entry.text)
    return f"**{text}**" if entry.best else f"{text} ≈" if entry.level else text


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("_", "\\_").replace("<", "&lt;").replace("\n", " ")
