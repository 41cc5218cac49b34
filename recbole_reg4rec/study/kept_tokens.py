"""Codes and categories inside a checkpoint, so that a model trained on one machine goes on and explains on any other.

Made anew elsewhere, codes would be others: they begin with decompositions whose last bits depend on the processor, and
a GPU trains them with roundings of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_reg4rec.data.categories import ItemCategories
from recbole_reg4rec.data.dataset import OrderedDataset
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.study.pipeline import Tokenized
from recbole_reg4rec.tokenizer.codes import ItemCodes


def keep_tokens(tokens: Tokenized, dataset: OrderedDataset) -> dict[str, Any]:
    """What a checkpoint keeps, as tensors and plain data: see `kept_tokens`."""
    codes, categories = tokens.codes, tokens.categories
    narrow = torch.int16 if codes.codewords <= torch.iinfo(torch.int16).max else torch.int32
    return {
        "codes": torch.from_numpy(codes.codes).to(narrow),
        "codewords": codes.codewords,
        "report": codes.report,
        "seconds": codes.seconds,
        "fingerprint": codes.fingerprint,
        "members": torch.from_numpy(categories.members).to(torch.int32),
        "names": list(categories.names),
        "source": categories.source,
        "items": _items_fingerprint(dataset),
    }


def kept_tokens(state: Mapping[str, Any], path: Path, dataset: OrderedDataset) -> Tokenized | None:
    """The codes and categories that a checkpoint was trained with; None where it keeps none.

    Args:
        state: what was read.
        path: of the checkpoint, to be named.
        dataset: the training part of the data as they are now.

    Raises:
        UserError: the columns of the items are others by now.
    """
    kept = state.get("tokens")
    if kept is None:
        return None
    if kept["items"] != _items_fingerprint(dataset):
        raise UserError(
            f"checkpoint {path} was trained with other items or columns of items than {dataset.dataset_name} has now; "
            "put its .item file back, or train again without --resume"
        )
    codes = kept["codes"].cpu().numpy().astype(np.int64)
    categories = ItemCategories(kept["members"].cpu().numpy().astype(np.int64), tuple(kept["names"]), kept["source"])
    found = ItemCodes(codes, kept["codewords"], kept["report"], kept["seconds"], True, kept["fingerprint"])
    return Tokenized(found, categories, 0.0)


def _items_fingerprint(dataset: OrderedDataset) -> str:
    """Of ids and columns of the items as they were read, the same on every machine."""
    digest = hashlib.sha256("\n".join(map(str, dataset.field2id_token[dataset.iid_field])).encode())
    columns = dataset.item_feat.interaction if dataset.item_feat is not None else {}
    for name in sorted(columns):
        digest.update(f"{name} {tuple(columns[name].shape)}".encode())
        digest.update(np.ascontiguousarray(columns[name].numpy()).tobytes())
        if name in dataset.field2id_token:
            digest.update("\n".join(map(str, dataset.field2id_token[name])).encode())
    return digest.hexdigest()[:16]
