"""Sizes that go by the data."""

import pytest

from recbole_reg4rec.model.size import AUTO_WIDTHS, auto_dropout, auto_width, epochs_for, sized_for

AUTO = {
    **dict.fromkeys(("hidden_size", "inner_size", "hidden_dropout_prob"), "auto"),
    "n_heads": 2,
    "attn_dropout_prob": 0,
}


@pytest.mark.parametrize(
    ("targets", "items", "width", "dropout"),
    [
        (982_089, 3_706, 128, 0.2),  # ml-1m
        (97_171, 1_682, 64, 0.2),  # ml-100k
        (131_413, 12_101, 64, 0.4),  # Beauty
        (399_999, 15_999, 64, 0.2),
        (400_000, 16_000, 128, 0.2),
        (400_000, 16_001, 64, 0.4),
        (4_000_000, 1_000_000, 64, 0.4),
        (0, 0, 64, 0.2),
    ],
)
def test_known_answers(targets, items, width, dropout):
    assert auto_width(targets, items) == width and width in AUTO_WIDTHS
    assert auto_dropout(targets, items) == dropout
    shape = sized_for(AUTO, targets, items)
    assert (shape["width"], shape["inner"], shape["dropout"]) == (width, 4 * width, dropout)


def test_what_is_given_stays():
    given = {**AUTO, "hidden_size": 24, "hidden_dropout_prob": 0.1}
    shape = sized_for(given, 10**6, 10)
    assert (shape["width"], shape["inner"], shape["dropout"], shape["heads"]) == (24, 96, 0.1, 2)
    assert sized_for({**given, "inner_size": 7}, 10**6, 10)["inner"] == 7


def test_the_model_goes_by_the_training_part(toy_data):
    toy = toy_data(hidden_size="auto", inner_size="auto", hidden_dropout_prob="auto")
    targets, items = len(toy.data.train._dataset.inter_feat), toy.data.dataset.item_num - 1
    assert targets == toy.data.dataset.statistics.train_targets
    model = toy.model
    assert model.shape == sized_for(toy.config, targets, items)
    assert model.decoder.table.weight.shape[1] == 64


ITEM_PATH = {"epochs": "auto", "item_path": True, "control": False}


@pytest.mark.parametrize(
    ("targets", "epochs"),
    [(0, 20), (131_413, 20), (615_384, 20), (620_000, 19), (982_089, 12), (1_846_153, 7), (1_850_000, 6), (10**8, 6)],
)
def test_large_data_are_passed_over_less_often(targets, epochs):
    assert epochs_for(ITEM_PATH, targets, targets // 25) == epochs
    assert epochs_for({**ITEM_PATH, "epochs": 3}, targets, targets // 25) == 3


@pytest.mark.parametrize(
    ("targets", "items", "epochs"),
    [(131_413, 12_101, 8), (51_000, 10_000, 20), (75_000, 10_000, 14), (10**6, 10**6, 6), (131_413, 5_256, 20)],
)
def test_sparse_data_are_passed_over_less_often_by_an_item_path(targets, items, epochs):
    assert epochs_for(ITEM_PATH, targets, items) == epochs
    assert epochs_for({**ITEM_PATH, "item_path": False, "control": True}, targets, items) == epochs
    # Reasoning alone wants more of it.
    assert epochs_for({**ITEM_PATH, "item_path": False}, targets, items) == epochs_for(ITEM_PATH, targets, 1)
    assert epochs_for({**ITEM_PATH, "epochs": 3}, targets, items) == 3
