"""RecBole's import of all its models switches autograd's anomaly detection on; what trains here does without."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from recbole_reg4rec.anomaly import without_anomaly_detection


@pytest.fixture(autouse=True, params=[(True, True), (True, False), (False, True)])
def switched(request: pytest.FixtureRequest) -> Iterator[tuple[bool, bool]]:
    """The detection as another module may have left it: on or off, with a look for NaN or without."""
    before = state()
    torch.autograd.set_detect_anomaly(*request.param)
    yield request.param
    torch.autograd.set_detect_anomaly(*before)


def state() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def test_off_within_and_as_before_afterwards(switched):
    with without_anomaly_detection():
        assert not torch.is_anomaly_enabled()
    assert state() == switched


def test_as_before_after_an_error(switched):
    @without_anomaly_detection()
    def fails() -> None:
        assert not torch.is_anomaly_enabled()
        raise RuntimeError("as planned")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="as planned"):
            fails()
        assert state() == switched


def test_codebooks_and_models_are_trained_without(toy_data, monkeypatch, switched):
    from recbole_reg4rec.model.reg4rec import REG4Rec
    from recbole_reg4rec.study.job import assemble, train
    from recbole_reg4rec.tokenizer.mpq import MPQ

    seen: dict[str, set[bool]] = {}

    def watched(owner: type, name: str) -> None:
        original = getattr(owner, name)

        def call(*args, **kwargs):
            seen.setdefault(owner.__name__, set()).add(torch.is_anomaly_enabled())
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    watched(MPQ, "orthogonality")
    watched(REG4Rec, "calculate_loss")
    train(assemble(toy_data(epochs=1, mpq_epochs=1).config))
    assert seen == {"MPQ": {False}, "REG4Rec": {False}}
    assert state() == switched
