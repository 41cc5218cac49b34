"""Traced paths against the search that found them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recbole_reg4rec.model.trace import trace_paths


@pytest.fixture(params=[False, True], ids=["", "repeat"])
def searched(toy_data: Any, request: pytest.FixtureRequest) -> Any:
    """A model of three codebooks, histories, and its complete search with every check."""
    pruning = {"corp": True, "corp_threshold": 0.999, "corp_min_beams": 2, "grounded": False}
    toy = toy_data(codebooks=3, codebook_size=3, beam_width=6, repeat=request.param, **pruning)
    model = toy.model.eval()
    with torch.no_grad():
        model.reasoner.category.weight.mul_(20.0)  # untrained, all steps would agree
    rows = next(iter(toy.data.test))[0]
    items, lengths = rows["item_id_list"], rows["item_length"]
    with torch.no_grad():
        return model, items, lengths, model.reason(items, lengths, complete=True)


def test_probabilities_multiply_to_the_score_of_the_path(searched: Any) -> None:
    model, items, lengths, paths = searched
    for row in range(len(items)):
        alive = torch.nonzero(paths.scores[row].isfinite()).flatten()
        assert len(alive)
        trace = trace_paths(model, items[row, : lengths[row]], paths.books[row, alive], paths.tokens[row, alive])
        assert trace.probabilities.shape == (len(alive), 3)
        assert torch.allclose(trace.probabilities.log().sum(1), paths.scores[row, alive], atol=1e-4)
        assert trace.agreements[:, 0].eq(1).all() and trace.before[:, 0].eq(0).all()


def test_a_path_that_was_broken_off_shows_the_agreement_that_ended_it(searched: Any) -> None:
    model, items, lengths, paths = searched
    seen = 0
    for check in paths.checks:
        for row in range(len(items)):
            gone = torch.nonzero(check.pruned[row]).flatten()
            if not len(gone):
                continue
            seen += 1
            trace = trace_paths(model, items[row, : lengths[row]], check.books[row, gone], check.tokens[row, gone])
            assert trace.agreements.shape == (len(gone), check.step)
            assert torch.allclose(trace.agreements[:, -1], check.agreement[row, gone], atol=1e-5)
            assert torch.allclose(trace.probabilities[:, :-1].log().sum(1), check.scores[row, gone], atol=1e-4)
            assert (trace.agreements[:, -1] < 0.999).all() and trace.probabilities[:, -1].eq(0).all()
            assert (trace.before[:, -1] > 0).all() and (trace.categories > 0).all()
    assert seen > 3
