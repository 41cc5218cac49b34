import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from recbole_reg4rec.study.benchmark.operations import (
    Shapes,
    decoding_operations,
    shapes_of,
    training_operations,
)

TINY = {
    "width": 2,
    "inner": 3,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "books": 2,
    "codewords": 4,
    "categories": 5,
    "steps": 2,
    "items": 6,
    "first_items": 0,
    "beam": 3,
    "looks_at_categories": True,
    "states": 1,
    "read": 2.0,
    "positions": 1.0,
    "history": 2.0,
}


def test_counted_by_hand():
    # Encoder: 8*4 + 4*2*read + 4*2*3, and 4*4 for the decoder; steps: own 16 or 48, across 32, feed-forward 24;
    # heads: 8 + 4*4*open, categories 20; items: 8 + 4*6.
    training = 3 * ((72 + 16) + (72 + 40 + 20) + (104 + 24 + 20) + 32)
    assert training_operations(Shapes(**TINY)) == training == 1200
    # The steps behind the first on a quarter of the rows.
    assert training_operations(Shapes(**TINY, later=0.25)) == 1200 - 3 * 0.75 * (104 + 24 + 20)
    decoding = 2 * (68 + 16) + (72 + 40 + 20) + 3 * (104 + 24 + 20) + 32
    assert decoding_operations(Shapes(**TINY)) == decoding == 776
    # Tokens as totals of items: the first step compares with 7 items and a bias, later ones with few.
    totals = Shapes(**{**TINY, "first_items": 7})
    assert training_operations(totals) == 1200 + 3 * ((2 * 3 * 7 - 32) - 16)
    assert decoding_operations(totals) == 776 + (2 * 3 * 7 - 32) - 3 * 16


def test_what_is_off_costs_nothing():
    alone = Shapes(**{**TINY, "decoder_layers": 0, "books": 0, "steps": 0, "categories": 0, "beam": 0})
    assert training_operations(alone) == 3 * (72 + 32)
    assert decoding_operations(alone) == 2 * 68 + 32
    assert training_operations(Shapes(**{**TINY, "positions": 2.0})) == 1200 + 3 * 88


def test_a_layer_that_only_the_last_item_needs():
    # 2 items of history, 1.5 read in the mean: query and output 16, scores and mixture 8 * read, feed-forward 24.
    once = Shapes(**{**TINY, "read_once": 1})
    assert training_operations(once) == 1200
    assert decoding_operations(once) == 776 - 2 * (16 + 12 + 24) + (16 + 16 + 24)


@pytest.mark.parametrize(
    ("form", "settings"),
    [
        ("fused", {}),
        ("fused", {"token_softmax": "codebook"}),
        ("flat", {"token_softmax": "codebook"}),
        ("fused", {"item_path": True, "n_layers": 4}),
    ],
)
def test_no_more_than_torch_counts(toy_data, form, settings):
    """torch counts what is computed; that is more: future positions, closed codebooks, the last item's code."""
    toy = toy_data(history_form=form, **settings)
    batch, model = next(iter(toy.data.test))[0], toy.model.eval()
    # torch counts no attention on a CPU that is one fused call.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model.full_sort_predict(batch)
    a_user = counter.get_total_flops() / len(batch)
    counted = decoding_operations(shapes_of(toy.model, toy.config, toy.data))
    assert 0.5 < counted / a_user <= 1.0


def test_another_model_has_no_shapes(toy_data):
    toy = toy_data(model="SASRecWhole")
    assert shapes_of(toy.model, toy.config, toy.data) is None
