"""Training in mixed precision, here bfloat16 on the processor as on a GPU: it runs, and loses next to nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recbole_reg4rec.study.job import assemble, train
from recbole_reg4rec.study.pipeline import configure

BOTH = {"stages": ["supervised", "alignment"], "align_epochs": 1}
SPELLED = {"token_softmax": "codebook"}


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("REG4Rec", {**BOTH, "item_path": True, "align_temperature": 0.9}),
        ("REG4Rec", {**BOTH, **SPELLED}),
        ("REG4Rec", {"softmax_items": 5, "training_order": "confidence", "history_form": "flat"}),
        ("TIGER", {}),
        ("RPG", {}),
        ("HSTU", {}),
        ("BERT4RecWhole", {}),
    ],
)
def test_losses_are_those_of_single_precision_within_a_few_hundredths(toy: Any, model: str, more: Any) -> None:
    found: list[list[dict[str, Any]]] = []
    for kind in (None, torch.bfloat16):
        job = assemble(configure(model, "toy", config_dict=toy.settings(model, epochs=1, **more)))
        job.trainer._amp = kind
        train(job)
        found.append(job.trainer.epochs_log)
    single, mixed = found
    assert [entry["stage"] for entry in mixed] == [entry["stage"] for entry in single]
    first = [torch.tensor(entries[0]["loss"], dtype=torch.float64) for entries in (single, mixed)]
    assert not torch.equal(*first), "mixed precision did something"
    torch.testing.assert_close(first[1], first[0], rtol=0.03, atol=0.03)
    assert all(torch.tensor(entry["loss"]).isfinite().all() for entry in mixed)
