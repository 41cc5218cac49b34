"""Optuna's samplers and pruners by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning

from recbole_reg4rec.errors import UserError

# Trials that every pruner lets end before it compares, and validations that it waits within a trial (our choice).
_FREE_TRIALS, _FREE_STEPS = 5, 2

SAMPLERS: dict[str, Callable[[int, int], Any]] = {
    # Takes running trials into account, so that workers do not try the same.
    "tpe": lambda seed, study_seed: optuna.samplers.TPESampler(seed=seed, constant_liar=True),
    "random": lambda seed, study_seed: optuna.samplers.RandomSampler(seed=seed),
    "gp": lambda seed, study_seed: optuna.samplers.GPSampler(seed=seed),
    "cmaes": lambda seed, study_seed: optuna.samplers.CmaEsSampler(seed=seed),
    # One sequence for the whole study.
    "qmc": lambda seed, study_seed: optuna.samplers.QMCSampler(seed=study_seed, scramble=True),
    "nsgaii": lambda seed, study_seed: optuna.samplers.NSGAIISampler(seed=seed),
    # Everything is in the queue beforehand; the sampler fills in what a conditional setting may lack.
    "grid": lambda seed, study_seed: optuna.samplers.RandomSampler(seed=seed),
}
PRUNERS: dict[str, Callable[[], Any]] = {
    "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=_FREE_TRIALS, n_warmup_steps=_FREE_STEPS),
    "percentile": lambda: optuna.pruners.PercentilePruner(
        25.0, n_startup_trials=_FREE_TRIALS, n_warmup_steps=_FREE_STEPS
    ),
    "halving": lambda: optuna.pruners.SuccessiveHalvingPruner(),
    "hyperband": lambda: optuna.pruners.HyperbandPruner(),
    "none": lambda: optuna.pruners.NopPruner(),
}
_ONE_OBJECTIVE = frozenset({"cmaes"})


def make_sampler(name: str, seed: int, slot: int) -> Any:
    """The sampler of one trial.

    It is new for every trial and its seed follows from the study's and the trial's place alone: a study that was
    interrupted goes on as if it had not been, and no two workers draw the same. What samplers know beside their seed
    they read from the storage.
    """
    own = int(np.random.SeedSequence([seed, slot]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return SAMPLERS[name](own, seed)


def make_pruner(name: str) -> Any:
    """A pruner."""
    return PRUNERS[name]()


def check_names(sampler: str, pruner: str, objectives: int) -> None:
    """Raises UserError where a name is unknown, cannot do what is asked, or needs a package that is missing."""
    for what, name, known in (("sampler", sampler, SAMPLERS), ("pruner", pruner, PRUNERS)):
        if name not in known:
            raise UserError(f"--{what} is `{name}`, but it must be one of {', '.join(known)}")
    if objectives > 1 and sampler in _ONE_OBJECTIVE:
        raise UserError(f"--sampler={sampler} takes one objective; choose tpe or nsgaii for two")
    try:
        make_sampler(sampler, 0, 0)
    except ImportError as error:
        raise UserError(
            f"--sampler={sampler} needs the package {error.name or sampler}; pip install {error.name or sampler}"
        ) from error
