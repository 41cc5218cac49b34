"""Floating-point operations that REG4Rec cannot do without, counted from its shapes.

A multiplication with its addition counts as two. Only matrix products and attention count; norms, softmax, sorting and
looking things up do not, nor do padding and the comparison with the few items that are left of a path. Where the
network need not look at something (codebooks that are closed, items behind the present one), that does not count
either, whether or not the code computes it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from recbole_reg4rec.model.reg4rec import REG4Rec

# The gradient of a product is two more of the same size: for its input and for its weights.
_WITH_GRADIENT = 3


@dataclass(frozen=True)
class Shapes:
    """``width`` d, ``inner``: of the feed-forward layers. ``encoder_layers``, ``decoder_layers``: numbers of layers, of
    both encoders together; ``read_once``: those of the former that need only the last item's state in decoding.

    ``books`` M, ``codewords`` K, ``categories``: outputs of the heads, 0 where a head is off. ``steps``: of a path.
    ``items``: rows of the item path's full softmax, ``first_items``: of that of the first step, 0 without.
    ``beam``: paths kept a step, 0 without a search. ``looks_at_categories``: in decoding. ``states``: states an item
    has in the encoder. ``read``: mean number of items that a trained position reads; ``positions``: positions encoded
    for each that is trained; ``later``: share of the trained positions at which the steps behind the first are trained;
    ``history``: mean items a user has in evaluation.
    """

    width: int
    inner: int
    encoder_layers: int
    decoder_layers: int
    books: int
    codewords: int
    categories: int
    steps: int
    items: int
    first_items: int
    beam: int
    looks_at_categories: bool
    states: int
    read: float
    positions: float
    history: float
    read_once: int = 0
    later: float = 1.0

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def shapes_of(model: Any, config: Any, data: Any) -> Shapes | None:
    """Shapes of a REG4Rec and of the data it works on (`study.pipeline.PreparedData`); None for another model."""
    if not isinstance(model, REG4Rec):
        return None
    windows, test = data.train.windows, data.test._dataset
    length = windows.length.astype(np.float64)
    trained = length - windows.skip
    # Position p reads p + 1 items; the trained ones are the last of each window.
    read = (trained * (windows.skip + 1 + length) / 2).sum() / trained.sum()
    reasoner = model.reasoner
    has_categories = reasoner is not None and model.supervision.category_weight > 0
    catalogue, encoders = model.catalogue, [model.encoder, model.item_path.encoder if model.item_path else None]
    return Shapes(
        width=model.shape["width"],
        inner=model.shape["inner"],
        encoder_layers=sum(len(encoder.layers) for encoder in encoders if encoder is not None),
        decoder_layers=len(reasoner.layers) if reasoner is not None else 0,
        books=catalogue.codebooks if reasoner is not None else 0,
        codewords=catalogue.codewords,
        categories=model.decoder.category.out_features if has_categories and model.decoder.category else 0,
        steps=model.steps if reasoner is not None else 0,
        first_items=catalogue.items if reasoner is not None and model.catalogue_softmax else 0,
        items=catalogue.items if model.item_path is not None else 0,
        beam=model.beam_width if reasoner is not None and model.weights.reason > 0 else 0,
        looks_at_categories=model.corp is not None,
        states=1 if config["history_form"] == "fused" else catalogue.codebooks + 1,
        read=float(read),
        positions=float(length.sum() / trained.sum()),
        history=float(test.inter_feat[test.item_list_length_field].float().mean()),
        read_once=int(model.item_path is not None and config["history_form"] == "fused"),
        later=model.supervision.later_share,
    )


def training_operations(shapes: Shapes) -> float:
    """Operations a trained target, stage 1, forward and backward."""
    one = shapes.positions * _encoded_item(shapes, shapes.read)
    for step in range(shapes.steps):
        of_step = _decoder_step(shapes, step, shapes.read) + _token_head(shapes, step)
        one += (of_step + 2 * shapes.width * shapes.categories) * (shapes.later if step else 1.0)
    return _WITH_GRADIENT * (one + _softmax(shapes, shapes.items))


def decoding_operations(shapes: Shapes) -> float:
    """Operations a user whose items are all ranked, every step of the search included."""
    read = (shapes.history + 1) / 2
    # Keys and values of all items, the rest for the last one only.
    total = shapes.history * (_encoded_item(shapes, read) - shapes.read_once * _but_keys(shapes, read))
    total += shapes.read_once * _but_keys(shapes, shapes.history)
    for step in range(shapes.steps if shapes.beam else 0):
        # So many prefixes of a path there are at most.
        paths = min(shapes.beam, shapes.codewords**step)
        total += paths * (_decoder_step(shapes, step, shapes.history) + _token_head(shapes, step))
        if shapes.looks_at_categories:
            total += paths * 2 * shapes.width * shapes.categories
    return total + _softmax(shapes, shapes.items)


def _encoded_item(shapes: Shapes, read: float) -> float:
    """An item through the encoder, and its keys and values for the decoder."""
    d = shapes.width
    layer = 4 * d * d + _but_keys(shapes, read)
    for_decoder = 4 * d * d * (shapes.decoder_layers if shapes.beam or shapes.books else 0)
    return shapes.states * (shapes.encoder_layers * layer + for_decoder)


def _but_keys(shapes: Shapes, read: float) -> float:
    """A state through a layer of the encoder, without the keys and values of what it reads."""
    # Query and output are d x d each; scores and mixture a product with every state that is read.
    return 4 * shapes.width**2 + 4 * shapes.width * read * shapes.states + 4 * shapes.width * shapes.inner


def _decoder_step(shapes: Shapes, step: int, read: float) -> float:
    """One path through the decoder; ``step`` tokens were taken before."""
    d = shapes.width
    # At the first step there is one value to attend to: no query, no key, no scores.
    own = 8 * d * d + 4 * d * (step + 1) if step else 4 * d * d
    across = 4 * d * d + 4 * d * read * shapes.states
    return shapes.decoder_layers * (own + across + 4 * d * shapes.inner)


def _token_head(shapes: Shapes, step: int) -> float:
    """Tokens of the codebooks that are still open, or at the first step all items where tokens are totals of these."""
    if shapes.first_items:
        return 2 * shapes.width**2 + (0 if step else 2 * (shapes.width + 1) * shapes.first_items)
    return 2 * shapes.width**2 + 2 * shapes.width * shapes.codewords * (shapes.books - step)


def _softmax(shapes: Shapes, items: int) -> float:
    return 2 * shapes.width**2 + 2 * shapes.width * items if items else 0.0
