"""Width of REG4Rec, what it drops and how long it learns, where the settings leave that to the data (our choice).

Found on what there is: ml-1m, with 982,000 training targets and 265 an item, wants a wide model that drops little;
Amazon Beauty, with 131,000 and 11, a narrow one that drops much; ml-100k, with 97,000 and 58, a narrow one that drops
little; Beauty is learned in six to eight epochs (results/accuracy.md). The bounds lie between them.
"""

from __future__ import annotations

from typing import Any

from recbole_reg4rec.model.layers import layer_shape

# What ``hidden_size: auto`` may come to.
AUTO_WIDTHS = (64, 128)
_WIDE_FROM, _DENSE_FROM = 400_000, 25
# Of ``epochs: auto``: training targets in all, of dense data and of sparse ones, which are learned by heart sooner, and
# the fewest and most epochs that they are spread over.
_DENSE_TARGETS, _SPARSE_TARGETS, _FEWEST_EPOCHS, _MOST_EPOCHS = 12_000_000, 1_050_000, 6, 20


def auto_width(targets: int, items: int) -> int:
    """The value of ``hidden_size: auto`` for so many training targets of so many items.

    Sparse data stay narrow however large they are: nothing says that they gain, and memory goes by items times width.
    """
    return AUTO_WIDTHS[targets >= _WIDE_FROM and _dense(targets, items)]


def auto_dropout(targets: int, items: int) -> float:
    """The value of ``hidden_dropout_prob: auto`` for so many training targets of so many items."""
    return 0.2 if _dense(targets, items) else 0.4


def epochs_for(config: Any, targets: int, items: int) -> int:
    """The setting ``epochs``; ``auto``: fewer for more training targets, so that large data end in hours too.

    Sparse data are passed over less often, since an item path with a vector an item is soon at its best there; paths
    without one, reasoning alone, learn for as long as on dense data.

    Args:
        config: RecBole configuration.
        targets: of training; items: of the catalogue.
    """
    if config["epochs"] != "auto":
        return int(config["epochs"])
    soon = (config["item_path"] or config["control"]) and not _dense(targets, items)
    enough = _SPARSE_TARGETS if soon else _DENSE_TARGETS
    return max(_FEWEST_EPOCHS, min(_MOST_EPOCHS, round(enough / max(targets, 1))))


def _dense(targets: int, items: int) -> bool:
    return targets >= _DENSE_FROM * items


def sized_for(config: Any, targets: int, items: int) -> dict[str, Any]:
    """`layer_shape` with what is ``auto`` settled; ``inner_size: auto`` is four times the width.

    Args:
        config: RecBole configuration.
        targets: of training; items: of the catalogue.
    """
    settings = {name: config[name] for name in ("hidden_size", "inner_size", "hidden_dropout_prob")}
    if settings["hidden_size"] == "auto":
        settings["hidden_size"] = auto_width(targets, items)
    if settings["inner_size"] == "auto":
        settings["inner_size"] = 4 * int(settings["hidden_size"])
    if settings["hidden_dropout_prob"] == "auto":
        settings["hidden_dropout_prob"] = auto_dropout(targets, items)
    return layer_shape({"n_heads": config["n_heads"], "attn_dropout_prob": config["attn_dropout_prob"], **settings})
