"""A board as one HTML page: the same tables, and plots that plotly.js draws where the network lets it be loaded."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from recbole_reg4rec.study.leaderboard.rows import CURVE_DEPTHS, Board, Row
from recbole_reg4rec.study.leaderboard.tables import KINDS, Entry, Table, group_label, headline, sections

# The release that plotly 7.1 for Python writes into its own pages, with the checksum that browsers compare.
PLOTLY_JS = "4.1.1"
PLOTLY_JS_SHA256 = "O24V1F27f8pb0glCkelh3cVHLNiHAJ5gCaVtq2aNch8="

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1200px; margin: 2em auto; padding: 0 1em; color: #222; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25em .6em; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { background: #f5f5f5; }
.best { font-weight: bold; }
.level::after { content: " \\2248"; }
.note { color: #555; max-width: 70em; }
.plot { width: 100%; height: 420px; }
"""
_SCRIPT = """
if (window.Plotly) {
  for (const [id, figure] of Object.entries(JSON.parse(document.getElementById("figures").textContent)))
    Plotly.newPlot(id, figure.data, figure.layout, {responsive: true, displaylogo: false});
} else {
  for (const place of document.querySelectorAll(".plot"))
    place.outerHTML = "<p class='note'>Plots need plotly.js from cdn.plot.ly; the tables hold their numbers.</p>";
}
"""


def page(board: Board) -> str:
    """The text of ``results/<dataset>.html``."""
    drawn = figures(board)
    body = [f"<h1>Leaderboard: {escape(board.dataset)}</h1>", f"<p>{escape(headline(board)).replace('`', '')}</p>"]
    masks = {"History not masked": "unmasked", "History masked": "masked"}
    for section in sections(board):
        body.append(f"<h2>{escape(section.title)}</h2>")
        if section.text:
            body.append(f"<p>{escape(section.text)}</p>")
        for place in (name for name in drawn if name.split("-")[0] == masks.get(section.title)):
            body.append(f'<div class="plot" id="{place}"></div>')
        for table in section.tables:
            body.append(_table(table))
    source = f"https://cdn.plot.ly/plotly-{PLOTLY_JS}.min.js"
    data = json.dumps(drawn, sort_keys=True).replace("<", "\\u003c")
    return "\n".join(
        [
            "<!doctype html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>Leaderboard: {escape(board.dataset)}</title>',
            f"<style>{_STYLE}</style>",
            f'<script src="{source}" integrity="sha256-{PLOTLY_JS_SHA256}" crossorigin="anonymous"></script>',
            "</head><body>",
            *body,
            f'<script type="application/json" id="figures">{data}</script>',
            f"<script>{_SCRIPT}</script>",
            "</body></html>",
            "",
        ]
    )


def figures(board: Board) -> dict[str, dict[str, Any]]:
    """Figures as plotly.js takes them (``data`` and ``layout``), by the place on the page."""
    found: dict[str, dict[str, Any]] = {}
    for masked in (False, True):
        rows, name = board.of(masked), "masked" if masked else "unmasked"
        if rows:
            found[f"{name}-time"] = _time(rows)
            found[f"{name}-depth"] = _depth(rows)
            found |= {f"{name}-{kind}": _bars(rows, kind, title) for kind, title in KINDS.items()}
    return found


def _layout(title: str, x: str, y: str, **more: Any) -> dict[str, Any]:
    axes = {
        "xaxis": {"title": {"text": x}, **more.pop("xaxis", {})},
        "yaxis": {"title": {"text": y}, "rangemode": "tozero"},
    }
    return {"title": {"text": title}, "margin": {"t": 50}, **axes, **more}


def _round(values: list[float]) -> list[float]:
    return [round(value, 6) for value in values]


def _time(rows: list[Row]) -> dict[str, Any]:
    data = [
        {
            "type": "scatter",
            "mode": "markers+text",
            "name": row.name,
            "text": [row.name],
            "textposition": "top center",
            # A logarithm has no place for models that need no training.
            "x": _round([max(row.cost("train"), 0.1)]),
            "y": _round([row.mean("ndcg@10")]),
            "error_y": {"type": "data", "array": _round([row.deviation("ndcg@10") or 0.0])},
        }
        for row in rows
    ]
    seconds = "training seconds (0.1: none)"
    layout = _layout("Accuracy against training time", seconds, "NDCG@10", xaxis={"type": "log"}, showlegend=False)
    return {"data": data, "layout": layout}


def _depth(rows: list[Row]) -> dict[str, Any]:
    data = []
    for number, row in enumerate(rows):
        for metric, dash in (("recall", "solid"), ("ndcg", "dot")):
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "name": f"{row.name} {metric}",
                    "x": list(CURVE_DEPTHS),
                    "y": _round(row.curve(metric)),
                    "line": {"dash": dash, "color": _COLOURS[number % len(_COLOURS)]},
                }
            )
    return {"data": data, "layout": _layout("Recall and NDCG by depth", "depth", "metric", xaxis={"type": "log"})}


_COLOURS = (
    "#4269d0",
    "#efb118",
    "#ff725c",
    "#6cc5b0",
    "#3ca951",
    "#ff8ab7",
    "#a463f2",
    "#97bbf5",
    "#9c6b4e",
    "#9498a0",
)


def _bars(rows: list[Row], kind: str, title: str) -> dict[str, Any]:
    data = []
    for row in rows:
        groups = row.groups(kind)
        labels = [group_label(group) for group in groups]
        data.append({"type": "bar", "name": row.name, "x": labels, "y": _round([g["ndcg@10"] for g in groups])})
    return {"data": data, "layout": _layout(f"NDCG@10 by {title}", title, "NDCG@10", barmode="group")}


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.header)
    lines = ["<tr>" + "".join(_entry(entry) for entry in line) + "</tr>" for line in table.lines]
    title = f"<h3>{escape(table.title)}</h3>\n" if table.title else ""
    note = f'\n<p class="note">{escape(table.note)}</p>' if table.note else ""
    return f'{title}<div class="wide"><table><tr>{head}</tr>\n' + "\n".join(lines) + f"\n</table></div>{note}"


def _entry(entry: Entry) -> str:
    if entry.links:
        links = ", ".join(f'<a href="{escape(address)}">{escape(text)}</a>' for text, address in entry.links)
        return f"<td>{links}</td>"
    kind = ' class="best"' if entry.best else ' class="level"' if entry.level else ""
    return f"<td{kind}>{escape(entry.text)}</td>"
