from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import plotly.graph_objects as go
import plotly.offline
import pytest

from recbole_reg4rec.config import load_yaml, properties_dir
from recbole_reg4rec.study.leaderboard import page as page_module
from recbole_reg4rec.study.leaderboard.markdown import markdown
from recbole_reg4rec.study.leaderboard.page import figures, page
from recbole_reg4rec.study.leaderboard.rows import build_board
from recbole_reg4rec.study.leaderboard.tables import published


@pytest.fixture
def board(records):
    files = [records.write("A", ranks=[1, 5, 9]), records.write("SASRecWhole", ranks=[2, 40, 3], dataset="toy")]
    return build_board("toy", records.shown(*files), records.book(), "f" * 16)


def test_figures_are_what_plotly_takes(board):
    drawn = figures(board)
    kinds = {"time", "depth", "transition", "popularity", "history"}
    assert set(drawn) == {f"{protocol}-{kind}" for protocol in ("unmasked", "masked") for kind in kinds}
    for figure in drawn.values():
        assert len(go.Figure(figure).data) >= 2  # raises ValueError for a property that there is not
    (recall,) = [trace for trace in drawn["unmasked-depth"]["data"] if trace["name"] == "A recall"]
    assert dict(zip(recall["x"], recall["y"], strict=True))[5] == pytest.approx(2 / 3, abs=1e-6)


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.cells = [], 0

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta",):
            self.open.append(tag)
        self.cells += tag in ("td", "th")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_small(board):
    text = page(board)
    reader = Reader()
    reader.feed(text)
    assert reader.open == [] and len(text) < 60_000
    (data,) = re.findall(r'id="figures">(.*?)</script>', text, re.S)
    drawn = json.loads(data)
    assert set(drawn) == set(re.findall(r'class="plot" id="([^"]+)"', text)) == set(figures(board))


def test_page_and_markdown_hold_the_same_cells(board):
    reader = Reader()
    reader.feed(page(board))
    lines = [line for line in markdown(board).splitlines() if line.startswith("| ") and "| ---" not in line]
    assert reader.cells == sum(len(re.findall(r"(?<!\\)\|", line)) - 1 for line in lines)


def test_plotly_js_is_the_release_that_its_checksum_says():
    if plotly.offline.get_plotlyjs_version() != page_module.PLOTLY_JS:
        pytest.skip("this plotly brings another plotly.js")
    text = go.Figure().to_html(include_plotlyjs="cdn")
    assert page_module.PLOTLY_JS_SHA256 in text and f"plotly-{page_module.PLOTLY_JS}.min.js" in text


def test_names_cannot_break_out(records):
    file = records.write("A<b>|*x*_", ranks=[1, 2])
    board = build_board("toy", records.shown(file), records.book(), "f" * 16)
    assert "<b>" not in page(board) and "A&lt;b>\\|\\*x\\*\\_" in markdown(board)


def test_published_numbers_have_a_source_and_a_protocol():
    path = properties_dir() / "published.yaml"
    entries = [entry for part in load_yaml(path).values() for entry in part]
    assert len(entries) > 20
    for entry in entries:
        assert set(entry) == {"name", "row", "masked", "recall@10", "ndcg@10", "source"}
        assert 0 < entry["ndcg@10"] < entry["recall@10"] < 1 and entry["source"]
        assert entry["masked"] in (True, False, None)


def test_published_numbers_stand_beside_the_row_of_their_protocol(records):
    file = records.write("SASRecWhole", ranks=[(20, 1), (20, 20)], dataset="amazon-beauty")
    board = build_board("amazon-beauty", records.shown(file), records.book(), "f" * 16)
    text = markdown(board)
    (line,) = [line for line in text.splitlines() if line.startswith("| SASRec, full cross-entropy")]
    assert "| 0.0842 | 0.0421 | not masked | SASRecWhole | 0.0000 | 0.0000 | -100% |" in line
    assert published("toy") == [] and "Published" not in markdown(
        build_board("toy", records.shown(records.write("B")), records.book(), "f" * 16)
    )
