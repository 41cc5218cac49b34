"""What is committed under ``results/``: every number can be traced to a record that is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_reg4rec.study.leaderboard.files import check_tables

RESULTS = Path(__file__).parents[1] / "results"


@pytest.mark.parametrize("folder", [RESULTS, RESULTS / "ablation"], ids=lambda folder: str(folder.name))
def test_tables_agree_with_the_records_that_they_name(folder: Path) -> None:
    assert list(folder.glob("*.csv")), "no tables"
    assert check_tables(folder) == []
