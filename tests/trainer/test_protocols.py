"""Ranks and lists under both protocols, from one pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_reg4rec.trainer.protocols import BothProtocols, top_lists


def test_lists_are_the_best_items_and_equals_go_by_number():
    scores = torch.tensor([[-torch.inf, 1.0, 3.0, 2.0, 3.0], [-torch.inf, 1.0, 1.0, 1.0, 1.0]])
    assert sorted(top_lists(scores, 2)[0].tolist()) == [2, 4]
    assert top_lists(scores, 2)[1].tolist() == [1, 2]
    assert top_lists(scores, 3)[0, 2] == 3


def test_excluded_items_are_never_listed():
    scores = torch.full((1, 5), -torch.inf)
    scores[0, 3] = 1.0
    assert top_lists(scores, 3).tolist() == [[3, 0, 0]]
    assert top_lists(scores, 9).tolist() == [[3] + [0] * 8], "longer than the catalogue"


@pytest.mark.parametrize("levels", [3, 10**6])
def test_lists_equal_a_stable_sort(levels):
    scores = torch.randint(levels, (50, 40), generator=torch.Generator().manual_seed(0)).float()
    wanted = torch.sort(scores, dim=1, descending=True, stable=True).indices[:, :10]
    found = top_lists(scores, 10)
    assert torch.equal(found.sort(1).values, wanted.sort(1).values)


def test_the_scores_stay_and_both_rankings_are_right():
    generator = torch.Generator().manual_seed(1)
    scores = torch.rand(4, 9, generator=generator)
    scores[:, 0] = -torch.inf
    before = scores.clone()
    rows, items = torch.tensor([0, 0, 1, 3, 3]), torch.tensor([2, 3, 5, 1, 1])
    targets = torch.tensor([2, 4, 6, 8])  # the first has been seen
    both = BothProtocols()
    both.add(scores, targets, torch.arange(4), rows, items)
    assert torch.equal(scores, before)
    masked = before.clone()
    masked[rows, items] = -torch.inf
    for protocol, values in (("unmasked", before), ("masked", masked)):
        for row, target in enumerate(targets.tolist()):
            rank = int((values[row] >= values[row, target]).sum())
            expected = 0 if values[row, target].isneginf() else rank
            assert both._ranks[protocol][0][row] == expected
    assert both._ranks["masked"][0][0] == 0


@pytest.fixture
def runs(tmp_path, monkeypatch):
    from recbole_reg4rec.study.quick_start import run

    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    folder = tmp_path / "data" / "toy"
    folder.mkdir(parents=True)
    lines = [f"u{u}\ti{rng.integers(25)}\t{t}" for u in range(50) for t in range(int(rng.integers(4, 12)))]
    (folder / "toy.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "\n".join(lines) + "\n")
    small = {"use_gpu": False, "show_progress": False, "state": "ERROR", "data_path": "data", "checkpoint_dir": "saved"}

    def make(model="ItemMemory", **more):
        return run(model, "toy", config_dict={**small, **more}, results_dir="results")

    make.folder = tmp_path / "results" / "runs"
    return make


def ranks_of(runs, record):
    lines = (runs.folder / record["ranks"]["file"]).read_text().splitlines()
    assert lines[0] == "unmasked,masked" and len(lines) == 51 == record["ranks"]["targets"] + 1
    return np.array([[int(cell) for cell in line.split(",")] for line in lines[1:]])


def test_a_run_writes_what_its_metrics_can_be_recomputed_from(runs):
    from recbole_reg4rec.trainer.measures import measure

    unmasked, masked = runs(eval_batch_size=7), runs(mask_history=True)
    assert unmasked["fingerprint"] == masked["fingerprint"]
    ranks = ranks_of(runs, unmasked)
    assert np.array_equal(ranks, ranks_of(runs, masked)), "nothing is trained, so only the protocol differs"
    for column, record in enumerate((unmasked, masked)):
        found = measure(ranks[:, column])
        for name in ("recall@5", "ndcg@5", "recall@10", "ndcg@10", "recall@20", "ndcg@20"):
            assert found[name] == pytest.approx(record["test"][name], abs=2e-6), name
    seen = (ranks == 0).sum(0)
    assert seen[0] == 0 and seen[1] > 0, "some targets were taken before"
    for record in (unmasked, masked):
        assert record["test_protocols"] == unmasked["test_protocols"]
        for name in ("unmasked", "masked"):
            part = record["test_protocols"][name]
            for groups in record["test_groups"][name].values():
                assert sum(entry["n"] for entry in groups) == 50
                mean = sum(entry["n"] * entry["ndcg@10"] for entry in groups) / 50
                assert mean == pytest.approx(part["ndcg@10"], abs=1e-5)
            assert 0 < part["coverage@10"] <= 1 and 0 < part["popularity@10"] < 1


def test_sampled_candidates_have_no_ranks_among_all_items(runs):
    arguments = {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "uni10"}
    record = runs("SASRec", epochs=1, hidden_size=8, inner_size=8, eval_args=arguments)
    assert "ranks" not in record and "test_protocols" not in record
    assert [path.suffix for path in runs.folder.iterdir()] == [".json"]
