"""Which class stands behind a model's name: this package's first, then RecBole's sequential models."""

from __future__ import annotations

import difflib
import importlib

from recbole_reg4rec.errors import UserError

# Imported only when asked for.
_OURS = {
    "BERT4RecWhole": "recbole_reg4rec.model.recbole_whole",
    "FDSAWhole": "recbole_reg4rec.model.recbole_whole",
    "GRU4RecWhole": "recbole_reg4rec.model.recbole_whole",
    "HSTU": "recbole_reg4rec.model.hstu",
    "ItemMemory": "recbole_reg4rec.model.item_memory",
    "REG4Rec": "recbole_reg4rec.model.reg4rec",
    "RPG": "recbole_reg4rec.model.rpg",
    "SASRecWhole": "recbole_reg4rec.model.recbole_whole",
    "TIGER": "recbole_reg4rec.model.tiger",
}

# RecBole builds these from data set classes of their own, which the exact one of this package does not replace.
_OWN_DATASET = frozenset({"DIEN", "GRU4RecKG", "KSR"})
# Reads the histories of the whole training data, not only those of its batch.
READS_ALL_HISTORIES = frozenset({"FEARec"})


def find_model(name: str) -> type:
    """The class of a model.

    Raises:
        UserError: nobody has a model of this name; the nearest names are given.
    """
    if name in _OURS:
        return getattr(importlib.import_module(_OURS[name]), name)
    package = importlib.import_module("recbole.model.sequential_recommender")
    known = {*_OURS, *(cls for cls in vars(package) if isinstance(vars(package)[cls], type))}
    if name in _OWN_DATASET:
        raise UserError(
            f"--model={name} needs a data set class of its own in RecBole, which this pipeline does not have; "
            "run it with RecBole itself, or choose another model"
        )
    if name in known:
        return getattr(package, name)
    by_lower = {other.lower(): other for other in known}
    near = [by_lower[match] for match in difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(sorted(known))}"
    raise UserError(f"--model={name} is not a model of this package nor a sequential model of RecBole; {hint}")
