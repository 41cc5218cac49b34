"""Accuracy of what is timed, looked up among records of whole runs."""

from __future__ import annotations

import pytest


def test_runs_with_the_very_settings_on_the_very_data_are_told(run, toy):
    records = [toy.run("SASRecWhole", epochs=1, seed=seed) for seed in (1, 2)]
    toy.run("SASRecWhole", epochs=2, seed=3)
    content = run("SASRecWhole,REG4Rec", epochs="1")
    whole_runs = content["datasets"]["toy"]["whole_runs"]
    assert list(whole_runs) == ["SASRecWhole"]
    entry = whole_runs["SASRecWhole"]
    for metric in ("recall@10", "ndcg@10"):
        values = [record["test"][metric] for record in records]
        assert entry[metric] == pytest.approx(sum(values) / 2, abs=1e-6)
        assert entry[f"{metric}_std"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5, abs=1e-6)
    assert entry["epochs"] == 1 and not entry["masked"] and len(entry["runs"]) == 2
    text = (toy.results / "benchmark.md").read_text()
    line = f"| SASRecWhole | {entry['recall@10']:.4f} ± {entry['recall@10_std']:.4f} |"
    assert "### Accuracy of whole runs" in text and line in text
    assert all(f"(runs/{file})" in text and (toy.results / "runs" / file).is_file() for file in entry["runs"])


def test_other_settings_and_other_data_are_not(run, toy):
    toy.run("SASRecWhole", epochs=1)
    assert run("SASRecWhole")["datasets"]["toy"]["whole_runs"] == {}, "another number of epochs"
    toy.write(toy.noisy_rows()[:-1])
    assert run("SASRecWhole", epochs="1")["datasets"]["toy"]["whole_runs"] == {}
    assert "whole runs" not in (toy.results / "benchmark.md").read_text()


def test_a_record_that_was_changed_costs_no_measurement(run, toy):
    toy.run("SASRecWhole", epochs=1)
    (ranks,) = (toy.results / "runs").glob("*.ranks.csv")
    ranks.write_text(ranks.read_text() + "1,1\n")
    content = run("SASRecWhole", epochs="1")
    assert "its checksum differs" in content["datasets"]["toy"]["whole_runs"]["SASRecWhole"]["failed"]
    assert "its checksum differs" in (toy.results / "benchmark.md").read_text()
