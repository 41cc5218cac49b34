"""Fitting the gate: known answers, chance, masks, the same numbers twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from recbole_reg4rec.model.gate import Gate
from recbole_reg4rec.trainer import gate_fit
from recbole_reg4rec.trainer.gate_fit import GateFit, fit_gate

ITEMS = 12


class Fixed:
    """Adds up what it is told, batch by batch."""

    def __init__(self, evidence: dict[str, Tensor], items: int = 8, hidden: int = 8) -> None:
        self.given = evidence
        self.gate: Gate | None = Gate(list(evidence), items, hidden)

    def summed(self, rows: slice) -> tuple[Tensor, dict[str, Tensor]]:
        evidence = {kind: values[rows] for kind, values in self.given.items()}
        return torch.stack(list(evidence.values())).sum(0), evidence


def batches(targets: Tensor, ruled_out: Any = None) -> list[Any]:
    return [(slice(at, at + 50), targets[at : at + 50], ruled_out) for at in range(0, len(targets), 50)]


def one_or_the_other(users: int = 600) -> tuple[dict[str, Tensor], Tensor]:
    """Two kinds of evidence whose sum says nothing: the target is the item of which exactly one is sure."""
    generator = torch.Generator().manual_seed(0)
    draw = torch.randint(2, (users, ITEMS + 1), generator=generator).float()
    first, second = draw.clone(), draw.clone()
    targets = torch.randint(1, ITEMS + 1, (users,), generator=generator)
    rows = torch.arange(users)
    # Of all others both are sure, or none; with a little noise, so that the sum has no ties.
    second[rows, targets] = 1.0 - first[rows, targets]
    first += 0.01 * torch.rand(first.shape, generator=generator)
    first[:, 0] = second[:, 0] = -9.0
    return {"recognise": first, "remember": second}, targets


def test_it_learns_what_a_sum_cannot_say() -> None:
    evidence, targets = one_or_the_other()
    model = Fixed(evidence, items=ITEMS)
    fit = fit_gate(model, batches(targets), "NDCG@10", 1)
    assert fit is not None and fit.kept and fit.users == 600
    assert fit.given_score < 0.6 < 0.9 < fit.score
    assert model.gate is not None and bool(model.gate.fitted)
    scores = model.gate(*model.summed(slice(None)))
    assert float((scores.argmax(1) == targets).float().mean()) > 0.9


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few steps, where it does not matter what is learned."""
    monkeypatch.setattr(gate_fit, "_EPOCHS", 3)
    monkeypatch.setattr(gate_fit, "_LEAST_STEPS", 20)


def test_the_same_seed_gives_the_same_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_fit, "_EPOCHS", 10)
    monkeypatch.setattr(gate_fit, "_LEAST_STEPS", 100)
    evidence, targets = one_or_the_other(120)
    fits, gates = [], []
    for seed in (1, 1, 2):
        model = Fixed(evidence, items=ITEMS)
        fits.append(fit_gate(model, batches(targets), "NDCG@10", seed))
        gates.append(model.gate)
    assert all(fit is not None and fit.kept for fit in fits), "or all gates would be as they were"
    assert fits[0] == fits[1] and torch.equal(gates[0].inner, gates[1].inner)
    assert not torch.equal(gates[0].inner, gates[2].inner)


@pytest.mark.usefixtures("quick")
def test_it_is_trained_without_anomaly_detection(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    original = gate_fit._Network.forward

    def forward(self: Any, first: Tensor, inputs: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            seen.add(torch.is_anomaly_enabled())
        return original(self, first, inputs)

    monkeypatch.setattr(gate_fit._Network, "forward", forward)
    evidence, targets = one_or_the_other(40)
    with torch.autograd.set_detect_anomaly(True):
        fit_gate(Fixed(evidence, items=ITEMS), batches(targets), "NDCG@10", 1)
        assert torch.is_anomaly_enabled()
    assert seen == {False}


def test_where_the_sum_is_right_nothing_changes() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(1, ITEMS + 1, (200,), generator=generator)
    noise = torch.rand(200, ITEMS + 1, generator=generator)
    right = torch.zeros(200, ITEMS + 1).scatter(1, targets.unsqueeze(1), 5.0)
    model = Fixed({"recognise": right, "remember": noise}, items=ITEMS)
    fit = fit_gate(model, batches(targets), "NDCG@10", 1)
    assert fit == GateFit(False, pytest.approx(fit.score), 1.0, 200)
    assert model.gate is not None and not bool(model.gate.fitted)
    assert model.gate(right, {}) is right


@pytest.mark.usefixtures("quick")
def test_ruled_out_items_are_no_rivals() -> None:
    evidence, targets = one_or_the_other(400)
    rows = torch.arange(50)
    mask = [(part[0], part[1], (rows, part[1] % ITEMS + 1)) for part in batches(targets)]
    plain = fit_gate(Fixed(evidence, items=ITEMS), batches(targets), "Recall@1", 1)
    masked = fit_gate(Fixed(evidence, items=ITEMS), mask, "Recall@1", 1)
    assert plain is not None and masked is not None and masked.given_score > plain.given_score
    gone = [(part[0], part[1], (rows, part[1])) for part in batches(targets)]
    assert fit_gate(Fixed(evidence, items=ITEMS), gone, "Recall@1", 1) is None, "no target is within reach"


def test_items_ruled_out_among_the_first_do_not_spoil_the_fit() -> None:
    evidence, targets = one_or_the_other(400)
    rows = torch.arange(50).repeat_interleave(3)
    beside = torch.tensor([0, 1, 2])
    # More than the padding item makes room for, so that they are among the first.
    mask = [(p[0], p[1], (rows, ((p[1].unsqueeze(1) + beside) % ITEMS + 1).flatten())) for p in batches(targets)]
    model = Fixed(evidence, items=ITEMS)
    fit = fit_gate(model, mask, "NDCG@10", 1)
    assert fit is not None and fit.kept and fit.score > fit.given_score + 0.1
    assert model.gate is not None and bool(model.gate.trust.isfinite())


def test_nothing_to_fit() -> None:
    evidence, targets = one_or_the_other(100)
    alone = Fixed({"recognise": evidence["recognise"]})
    assert fit_gate(alone, batches(targets), "NDCG@10", 1) is None
    without = Fixed(evidence)
    without.gate = None
    assert fit_gate(without, batches(targets), "NDCG@10", 1) is None
    # A metric of deeper ranks than the gate looks at, or of none.
    assert fit_gate(Fixed(evidence, items=8), batches(targets), "NDCG@10", 1) is None
    assert fit_gate(Fixed(evidence), batches(targets), "GAUC", 1) is None
    assert fit_gate(Fixed(evidence, items=ITEMS), [], "NDCG@10", 1) is None
