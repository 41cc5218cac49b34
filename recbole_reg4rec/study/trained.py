"""A trained model as it was: data, codes and weights by the settings that its checkpoint holds."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_reg4rec.config import known_settings, load_yaml, resolved_settings
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.model.evidence import EvidenceWeights
from recbole_reg4rec.study.kept_tokens import kept_tokens
from recbole_reg4rec.study.leaderboard.grid import newest_checkpoint
from recbole_reg4rec.study.pipeline import (
    PreparedData,
    Tokenized,
    best_checkpoint,
    build_model,
    configure,
    data_fingerprint,
    prepare_data,
    tokenize_data,
)
from recbole_reg4rec.trainer.checkpoint import binding_settings, check_belongs, fill_model, read_checkpoint

# Settings that change how a trained model is asked, not what it has learned.
# fmt: off
DECODING_SETTINGS = frozenset({
    "decoding_order", "beam_width", "beam_branch", "corp", "corp_threshold", "corp_steps", "corp_min_beams",
    "reason_weight", "recognise_weight", "remember_weight", "repeat_weight", "mask_history",
})
# fmt: on
_PLACES = ("checkpoint_dir", "tokenizer_cache")


@dataclass
class TrainedModel:
    """A model in evaluation mode with everything that it was trained on.

    ``settings``: all of them, those chosen for decoding included.
    """

    config: Any
    settings: dict[str, Any]
    data: PreparedData
    tokens: Tokenized | None
    model: Any
    checkpoint: Path


def load_trained(
    dataset: str,
    checkpoint: str | None = None,
    model: str = "REG4Rec",
    config_file_list: list[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    command_line: Mapping[str, str] | None = None,
    like: TrainedModel | None = None,
) -> TrainedModel:
    """Loads a checkpoint with the settings it was trained with; they need not be given again.

    Args:
        dataset: name of the data set.
        checkpoint: file of the best model; None: the one that `run` would write with the settings given, or with those
            of them that are not about decoding; where there is none, the one that `leaderboard` has left of these.
        model: name of the model that it must hold.
        config_file_list, config_dict, command_line: what to change, later ones win: where things lie and on which
            device, and `DECODING_SETTINGS`.
        like: the same checkpoint, asked in another way; its data and codes are taken over.

    Raises:
        UserError: the checkpoint is missing, foreign, of another model or data set, was trained with other settings
            than those given, or on other data than lie there now.
    """
    given = {name: value for path in config_file_list or [] for name, value in load_yaml(path).items()}
    given.update(config_dict or {})
    texts = dict(command_line or {})
    config = configure(model, dataset, None, given, texts)
    path = best_checkpoint(config, resolved_settings(config), checkpoint)
    if checkpoint is None and not path.is_file():
        trained = configure(model, dataset, None, _without_decoding(given), _without_decoding(texts))
        path = best_checkpoint(trained, resolved_settings(trained))
        if not path.is_file():
            path = newest_checkpoint(resolved_settings(trained)) or path
    state = read_checkpoint(path)
    if state["model"] == model:
        if state["dataset"] != dataset:
            raise UserError(
                f"checkpoint {path} was trained on {state['dataset']}, but --dataset is {dataset}; "
                "give a fitting --dataset or --checkpoint"
            )
        learned: dict[str, Any] = {}
        for _ in range(2):  # what is learned first may bring in a data set's `reason_only`
            learned |= _settings_of(state, config, dataset, set(given) | set(texts))
            config = configure(model, dataset, None, {**learned, **given}, texts)
    settings = resolved_settings(config)
    check_belongs(path, state, model, _as_trained(settings, state["settings"]))
    data, tokens = (like.data, like.tokens) if like is not None else (prepare_data(config), None)
    if tokens is None and getattr(config.model_class, "needs_tokens", False):
        tokens = kept_tokens(state, path, data.train._dataset) or tokenize_data(config, data)
    recommender = build_model(_weighed_as_trained(config, state["settings"]), data, tokens)
    fill_model(path, state, recommender, data_fingerprint(data, tokens))
    asked = DECODING_SETTINGS & (set(given) | set(texts))
    if hasattr(recommender, "weigh") and any(name.endswith("_weight") for name in asked):
        # What is asked for now goes before what was chosen on validation.
        recommender.weigh(EvidenceWeights.from_settings(config))
    return TrainedModel(config, settings, data, tokens, recommender.eval(), path)


def _settings_of(state: Mapping[str, Any], config: Any, dataset: str, given: set[str]) -> dict[str, Any]:
    """What has to be set so that a configuration becomes the checkpoint's; where data lie only if they still do."""
    now, then = resolved_settings(config), state["settings"]
    known = known_settings(config.model_class) - {"model", "dataset"} - given
    learned = {name: value for name, value in binding_settings(then).items() if name in known and value != now[name]}
    folder = Path(str(then["data_path"]))
    if "data_path" not in given and (folder / f"{dataset}.inter").is_file() and folder.name == dataset:
        learned["data_path"] = str(folder.parent)
    for name in _PLACES:
        if name not in given and then.get(name) and Path(then[name]).is_dir():
            learned[name] = then[name]
    return learned


def _weighed_as_trained(config: Any, then: Mapping[str, Any]) -> Any:
    """The configuration with the weights of training: a gate is made for the kinds of evidence that had one."""
    weights = {name: then[name] for name in DECODING_SETTINGS if name.endswith("_weight") and name in then}
    weighed = copy.copy(config)
    weighed.final_config_dict = {**config.final_config_dict, **weights}
    return weighed


def _as_trained(settings: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with those of decoding as the checkpoint has them, since they may differ."""
    return {**_without_decoding(settings), **{name: then[name] for name in DECODING_SETTINGS if name in then}}


def _without_decoding(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in DECODING_SETTINGS}
