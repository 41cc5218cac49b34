"""Which class stands behind a model's name: this package's first, then RecBole's sequential models."""

from __future__ import annotations

import difflib
import importlib
import pkgutil

from recbole_reg4rec.errors import UserError

# Imported only when asked for.
_OURS = {
    "REG4Rec": "recbole_reg4rec.model.reg4rec",
    "SASRecWhole": "recbole_reg4rec.model.sasrec_whole",
}


def recbole_models() -> list[str]:
    """Module names of RecBole's sequential models, in lower case."""
    package = importlib.import_module("recbole.model.sequential_recommender")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def find_model(name: str) -> type:
    """The class of a model.

    Raises:
        UserError: nobody has a model of this name; the nearest names are given.
    """
    if name in _OURS:
        return getattr(importlib.import_module(_OURS[name]), name)
    package = importlib.import_module("recbole.model.sequential_recommender")
    known = {*_OURS, *(cls for cls in vars(package) if isinstance(vars(package)[cls], type))}
    if name in known:
        return getattr(package, name)
    by_lower = {other.lower(): other for other in known}
    near = [by_lower[match] for match in difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(sorted(known))}"
    raise UserError(f"--model={name} is not a model of this package nor a sequential model of RecBole; {hint}")
