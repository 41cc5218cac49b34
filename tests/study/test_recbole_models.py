"""RecBole's sequential models through this pipeline: trained, saved without pickles, loaded, evaluated, recorded."""

import math

import pytest

from recbole_reg4rec.errors import UserError

FEATURES = {
    "selected_features": ["class"],
    "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "class"]},
}
MODELS = {
    **dict.fromkeys(["BERT4Rec", "Caser", "CORE", "DIN", "FEARec", "FOSSIL", "FPMC", "GCSAN", "GRU4Rec", "HGN"], {}),
    **dict.fromkeys(["HRM", "LightSANs", "NARM", "NextItNet", "NPE", "RepeatNet", "SASRec", "SHAN", "SINE"], {}),
    **dict.fromkeys(["SRGNN", "STAMP", "TransRec"], {}),
    **dict.fromkeys(["FDSA", "GRU4RecF", "SASRecF"], FEATURES),
}


@pytest.mark.parametrize("model", sorted(MODELS))
def test_runs(toy, model):
    record = toy.run(model=model, epochs=1, **MODELS[model])
    assert record["model"] == model
    assert math.isfinite(record["epochs"][0]["loss"] if isinstance(record["epochs"][0]["loss"], float) else 0.0)
    assert 0.0 <= record["test"]["recall@10"] <= 1.0
    assert record["targets_per_second"] > 0


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("FDSAWhole", {"selected_features": ["nope"]}),
        ("FDSA", {"selected_features": "class"}),
        ("SASRecF", {"selected_features": ["class", "nope"]}),
        ("S3Rec", {"item_attribute": "nope"}),
    ],
)
def test_columns_that_are_not_there_are_named(toy, model, settings):
    with pytest.raises(UserError, match=rf"{next(iter(settings))} is .*\['title', 'class'\]"):
        toy.run(model=model, epochs=1, **settings)
