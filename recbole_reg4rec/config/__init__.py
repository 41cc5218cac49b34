"""Settings: property files, what each setting may be, and RecBole's Config with this package's rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recbole_reg4rec.config.settings import (
    Setting,
    describe_settings,
    known_settings,
    load_yaml,
    parse_value,
    properties_dir,
    refuse_unknown,
)

if TYPE_CHECKING:
    from recbole_reg4rec.config.config import Reg4RecConfig, given_settings, resolved_settings

__all__ = [
    "Reg4RecConfig",
    "Setting",
    "describe_settings",
    "given_settings",
    "known_settings",
    "load_yaml",
    "parse_value",
    "properties_dir",
    "refuse_unknown",
    "resolved_settings",
]


def __getattr__(name: str) -> Any:
    # Late, because RecBole's Config imports torch, and --help should not wait for that.
    if name in ("Reg4RecConfig", "given_settings", "resolved_settings"):
        from recbole_reg4rec.config import config

        return getattr(config, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
