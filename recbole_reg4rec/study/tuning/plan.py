"""What one `tune` command has decided before its first trial, as plain data that worker processes can be given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from recbole_reg4rec.config import resolved_settings
from recbole_reg4rec.study.pipeline import configure
from recbole_reg4rec.study.tuning.spaces import Space
from recbole_reg4rec.trainer.checkpoint import deciding_settings

SECONDS = "seconds"


@dataclass(frozen=True)
class Plan:
    """One study and this command's part in it.

    Attributes:
        model, dataset, config_files, command_line: as `study.quick_start.run` takes them.
        space: what is searched; settings of the command line are neither searched nor fixed in it.
        name, storage: of the study in its storage, see `storage.open_storage`.
        output: folder for results and for checkpoints of trials.
        trials: how many the study is to have, over all commands and machines.
        objectives: one validation metric, or a metric and another metric or ``seconds``.
        bigger: for each objective, whether more is better.
        sampler, pruner: names, see `samplers`.
        queue: settings of the trials that are known beforehand: a grid, or a curve's values.
        curve: the setting of a one-setting study.
        seed: of the sampler.
    """

    model: str
    dataset: str
    config_files: tuple[str, ...]
    command_line: dict[str, str]
    space: Space
    name: str
    storage: str
    output: str
    trials: int
    objectives: tuple[str, ...]
    bigger: tuple[bool, ...]
    sampler: str
    pruner: str
    queue: tuple[dict[str, Any], ...] = ()
    curve: str | None = None
    seed: int = 2020

    @property
    def checkpoints(self) -> Path:
        """Folder of the trials' checkpoints."""
        return Path(self.output) / "checkpoints"

    @property
    def directions(self) -> list[Literal["maximize", "minimize"]]:
        """As Optuna names them."""
        return ["maximize" if bigger else "minimize" for bigger in self.bigger]

    def configure(self, values: Mapping[str, Any], **machine: str) -> Any:
        """The configuration of a trial with these settings.

        Args:
            values: what the trial varies.
            machine: settings of the process that runs it, over the command line's.
        """
        own = {**self.space.fixed, **values, "valid_metric": self.objectives[0]}
        command_line = {**self.command_line, **machine}
        return configure(self.model, self.dataset, list(self.config_files), own, command_line)

    @cached_property
    def base(self) -> dict[str, Any]:
        """All settings of a trial that varies nothing."""
        return resolved_settings(self.configure({}))

    def contract(self) -> dict[str, Any]:
        """What every command that works on the study must agree on."""
        searched = {parameter.name for parameter in self.space.parameters}
        settings = {name: value for name, value in deciding_settings(self.base).items() if name not in searched}
        return {
            "model": self.model,
            "dataset": self.dataset,
            "objectives": list(self.objectives),
            "space": self.space.as_dict(),
            "settings": settings,
        }
