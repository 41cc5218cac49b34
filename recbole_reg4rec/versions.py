"""The libraries beneath us: which versions we refuse, and which ones a run used.

Every version is read from the installed packages' metadata, so that nothing is imported before it has been judged.
"""

from __future__ import annotations

import logging
import platform
import re
from importlib import metadata

from . import __version__
from .errors import UserError

RECBOLE_TESTED = "1.2.1"
RECBOLE_INSTALL = f"pip install --no-deps recbole=={RECBOLE_TESTED}"

# distribution -> (lowest version allowed, first version refused or None, what to install, why)
_BOUNDS: dict[str, tuple[tuple[int, ...], tuple[int, ...] | None, str, str]] = {
    "pandas": ((2,), (3,), "pandas>=2,<3", "RecBole's data handling is silently wrong with pandas 3"),
    "torch": ((2, 4), None, "torch>=2.4", "older releases lack the AMP and checkpoint functions used here"),
    "numpy": ((1, 26), None, "numpy>=1.26", "older releases are not tested"),
}
_RECORDED = ("torch", "numpy", "pandas", "scipy", "scikit-learn", "recbole")


def check_versions() -> None:
    """Refuse an environment in which results would be wrong or nothing would run.

    Imports none of the libraries. A recbole other than 1.2.1 is only warned about, through logging.

    Raises:
        UserError: pandas, torch or numpy is missing or outside its bounds, or recbole is missing.
    """
    for name, (lowest, refused, wanted, why) in _BOUNDS.items():
        found = _installed(name)
        if found is None:
            raise UserError(f'{name} is not installed, {wanted} is needed: run: pip install "{wanted}"')
        parts = _numbers(found)
        if parts < lowest or (refused is not None and parts >= refused):
            raise UserError(f'{name} {found} is installed, but {wanted} is needed ({why}): run: pip install "{wanted}"')
    recbole = _installed("recbole")
    if recbole is None:
        raise UserError(
            f"recbole is not installed, version {RECBOLE_TESTED} is needed: run: {RECBOLE_INSTALL} "
            "(--no-deps, because it demands a release of ray that is neither needed nor to be had for every Python)"
        )
    if recbole != RECBOLE_TESTED:
        logging.getLogger(__name__).warning(
            "recbole %s is installed, but this package was tested with %s alone: if something fails, run: %s",
            recbole,
            RECBOLE_TESTED,
            RECBOLE_INSTALL,
        )


def collect_versions() -> dict[str, str]:
    """Versions for the record of a run, by name; `not installed` where a library is missing."""
    record = {"python": platform.python_version(), "platform": platform.platform()}
    record.update({name: _installed(name) or "not installed" for name in _RECORDED})
    record["recbole_reg4rec"] = __version__
    return record


def _installed(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        # a damaged installation has metadata without a version: the same as missing
        return metadata.version(name) or None
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """`2.13.0+cpu` -> (2, 13, 0); what follows the leading numbers (rc1, +cpu) does not count."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found.group().split(".")) if found else ()
