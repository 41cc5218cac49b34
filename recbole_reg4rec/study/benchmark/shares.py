"""What the time of decoding goes to: catalogue constraint, CORP, item memory and the rest of REG4Rec's evidence.

Python's own profiler counts the seconds within some functions of this package. Nothing is replaced: the objects of CORP
are made anew for every search, so that there is no instance whose methods could be wrapped. Calls into torch are not
counted one by one, so that the profiler costs little beside tensors of this size.
"""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable
from types import FunctionType

from recbole_reg4rec.decoding.catalogue import Catalogue
from recbole_reg4rec.decoding.corp import Reflection
from recbole_reg4rec.decoding.shares import RemainingShares
from recbole_reg4rec.model.catalogue_scorer import CatalogueScorer
from recbole_reg4rec.model.evidence import ItemPath
from recbole_reg4rec.model.gate import Gate
from recbole_reg4rec.model.history import HistoryEncoder
from recbole_reg4rec.model.memory import Memory
from recbole_reg4rec.model.reasoner import Reasoner, ReasoningSession
from recbole_reg4rec.model.reg4rec import REG4Rec
from recbole_reg4rec.model.repeat import Repeat, SeenOdds

# By part of decoding: functions none of which calls another of the same part.
PARTS: dict[str, tuple[Callable[..., object], ...]] = {
    "search": (REG4Rec._reason,),
    "catalogue": (Catalogue.open, Catalogue.narrow, Catalogue.feasible),
    "open": (Catalogue.open,),
    "narrow": (Catalogue.narrow,),
    "feasible": (Catalogue.feasible,),
    "corp": (Reflection.__init__, Reflection.check),
    "decoder": (ReasoningSession.begin, ReasoningSession.take, ReasoningSession.follow),
    "token head": (
        Reasoner.token_logits,
        CatalogueScorer.item_log_probs,
        CatalogueScorer.token_shares,
        CatalogueScorer.likely_shares,
        CatalogueScorer.shares_after,
        CatalogueScorer.answer,
        RemainingShares.largest,
        RemainingShares.likeliest,
    ),
    "encoders": (HistoryEncoder.read, HistoryEncoder.read_last),
    "item path": (ItemPath.log_probs,),
    "memory": (Memory.forward,),
    "repeat": (Repeat.odds, SeenOdds.table),
    "gate": (Gate.forward,),
}
WITHIN_SEARCH = ("catalogue", "open", "narrow", "feasible", "corp")
_WHOLE = REG4Rec.full_sort_predict


def profile(work: Callable[[], object]) -> dict[str, float]:
    """Does the work under the profiler.

    Returns:
        seconds by part of `PARTS`, calls of other parts within them included, and of ``decoding`` as a whole
        (``full_sort_predict``); 0 where a part never ran.
    """
    profiler = cProfile.Profile(builtins=False)
    profiler.enable()
    try:
        work()
    finally:
        profiler.disable()
    return {name: _seconds(profiler, functions) for name, functions in {**PARTS, "decoding": (_WHOLE,)}.items()}


def shares(seconds: dict[str, float]) -> dict[str, float]:
    """Each part's share of ``decoding``; and of the ``search`` for paths alone, where there was one.

    Args:
        seconds: see `profile`.

    Returns:
        by part, in ``[0, 1]``; and those of `WITHIN_SEARCH` as ``<part> of search`` beside.
    """
    whole, search = seconds["decoding"], seconds["search"]
    found = {name: value / whole for name, value in seconds.items() if name != "decoding"} if whole > 0 else {}
    if search > 0:
        found.update({f"{name} of search": seconds[name] / search for name in WITHIN_SEARCH})
    return found


def _seconds(profiler: cProfile.Profile, functions: tuple[Callable[..., object], ...]) -> float:
    timings = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    total = 0.0
    for function in functions:
        assert isinstance(function, FunctionType)
        code = function.__code__
        total += timings.get((code.co_filename, code.co_firstlineno, code.co_name), (0, 0, 0.0, 0.0))[3]
    return total
