"""A checkpoint brings its codes along: it works on a machine on which they would come out otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_reg4rec.errors import UserError
from recbole_reg4rec.study import pipeline
from recbole_reg4rec.study.trained import load_trained

LIGHT = {"use_gpu": False, "show_progress": False}


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Any:
    """From the call on features differ in their last bits, as on another processor, and nothing is cached."""
    original = pipeline.build_item_features
    calls = []

    def other(*given: Any) -> Any:
        features = original(*given)
        calls.append(1)
        noise = np.random.default_rng(len(calls)).normal(size=features.matrix.shape).astype(np.float32)
        features.matrix[1:] += 0.3 * noise[1:]
        return features

    def move() -> list[int]:
        monkeypatch.setattr(pipeline, "build_item_features", other)
        return calls

    return move


def best(toy: Any) -> Path:
    (path,) = toy.saved.glob("*/best.pth")
    return Path(path)


def test_it_is_explained_and_evaluated_with_its_own_codes(toy: Any, elsewhere: Any) -> None:
    record = toy.run()
    codes = torch.load(best(toy), weights_only=True)["tokens"]["codes"]
    calls = elsewhere()
    trained = load_trained("toy", str(best(toy)), config_dict=LIGHT)
    assert torch.equal(trained.model.catalogue.codes, codes.long())
    assert trained.tokens is not None and trained.tokens.codes.fingerprint == record["tokenizer"]["fingerprint"]
    assert (
        trained.tokens.codes.report == {name: record["tokenizer"][name] for name in trained.tokens.codes.report}
        and calls == []
    ), "nothing was made anew"
    assert pipeline.tokenize_data(trained.config, trained.data).codes.fingerprint != record["tokenizer"]["fingerprint"]


def test_training_goes_on_with_the_codes_it_was_begun_with(toy: Any, elsewhere: Any, comparable: Any) -> None:
    whole = toy.run(epochs=3, checkpoint=toy.folder / "whole" / "best.pth")
    toy.run(epochs=2, checkpoint=toy.folder / "parts" / "best.pth")
    elsewhere()
    resumed = toy.run(epochs=3, checkpoint=toy.folder / "parts" / "best.pth", resume=True)
    assert comparable(resumed)["test"] == comparable(whole)["test"]
    assert resumed["tokenizer"]["fingerprint"] == whole["tokenizer"]["fingerprint"]
    anew = toy.run(epochs=1, checkpoint=toy.folder / "anew" / "best.pth")
    assert anew["tokenizer"]["fingerprint"] != whole["tokenizer"]["fingerprint"]


def test_stage_2_has_the_codes_of_its_first_stage(toy: Any, elsewhere: Any) -> None:
    first = toy.run(checkpoint=toy.folder / "first" / "best.pth")
    elsewhere()
    more = {"stages": ["supervised", "alignment"], "align_epochs": 1}
    both = toy.run(align_from=str(toy.folder / "first" / "best.pth"), checkpoint=toy.folder / "second.pth", **more)
    assert both["tokenizer"]["fingerprint"] == first["tokenizer"]["fingerprint"]


def test_other_columns_of_items_are_refused(toy: Any) -> None:
    toy.run()
    items = toy.folder / "data" / "toy" / "toy.item"
    lines = items.read_text().splitlines()
    assert len(lines) > 3
    items.write_text("\n".join([*lines[:-1], lines[-1].replace(lines[-1].split("\t")[1], "another")]) + "\n")
    with pytest.raises(UserError, match="was trained with other items or columns of items than toy has now"):
        load_trained("toy", str(best(toy)), config_dict=LIGHT)


def test_a_model_without_tokens_keeps_none(toy: Any) -> None:
    toy.run(model="SASRecWhole")
    assert "tokens" not in torch.load(best(toy), weights_only=True)
