"""RecBole's Config with this package's property files, refusals and device rule."""

from __future__ import annotations

import copy
import enum
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.config import Config
from recbole.utils import EvaluatorType, InputType

from recbole_reg4rec.config.rules import Rule
from recbole_reg4rec.config.settings import (
    combined_rules,
    describe_settings,
    known_settings,
    load_yaml,
    model_names,
    nearest,
    own_property_files,
    parse_value,
    recbole_properties_dir,
    recbole_settings,
    refuse_pickles,
    refuse_processes,
    refuse_unknown,
)
from recbole_reg4rec.config.values import PropertyLoader
from recbole_reg4rec.errors import UserError

_RECBOLE_CHECKS = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
    NotImplementedError,
    RuntimeError,
)
# RecBole fills up these dictionaries and never notices a key that it does not know.
_DICT_KEYS = {
    "eval_args": {"split", "group_by", "order", "mode"},
    "train_neg_sample_args": {"distribution", "sample_num", "alpha", "dynamic", "candidate_num"},
    "clip_grad_norm": {"max_norm", "norm_type", "error_if_nonfinite"},
}
# The switches of all evidence beside reasoning; with none of them on, REG4Rec is the paper's model.
_OTHER_EVIDENCE = ("item_path", "memory", "repeat")
# What `eval_batch_size: auto` stands for, by type of device (properties/model/REG4Rec.yaml).
_AUTO_EVAL_BATCH = {"cpu": 96, "cuda": 256}
# Aliases that numpy dropped and RecBole 1.2.1 still uses.
_NUMPY_ALIASES: dict[str, type] = {
    "bool": np.bool_,
    "int": np.int_,
    "float": np.float64,
    "complex": np.complex128,
    "object": np.object_,
    "str": np.str_,
    "long": np.int_,
    "unicode": np.str_,
}


class Reg4RecConfig(Config):
    """All settings of one run.

    Weakest first: RecBole's property files (a model that has none takes its nearest base class's), this package's
    ``overall.yaml``, ``model/<Model>.yaml`` (base classes first), ``dataset/<dataset>.yaml`` and
    ``dataset/<dataset>.<Model>.yaml``, the user's files in the order given, ``config_dict``, ``command_line``. Of
    ``eval_args``, the parts that the user does not name keep their value from the property files; RecBole would fall
    back to a random order. ``train_neg_sample_args`` becomes None for a model trained with cross-entropy or on whole
    sequences (``whole_sequence``) unless the user sets it. A data set's file may hold a dictionary ``reason_only``:
    where ``item_path``, ``memory`` and ``repeat`` are all off, its settings take the place of the file's others, since
    the paper's model may need others than the whole.

    The device is the CPU when ``use_gpu`` is false or there is no CUDA, otherwise the first id in ``gpu_id``.
    ``sys.argv`` is not read, ``CUDA_VISIBLE_DEVICES`` is not written, no text is evaluated.

    Args:
        model: a model class, or the name of one of RecBole's.
        dataset: the data set's name.
        config_file_list: paths of YAML files.
        config_dict: names and values; texts stay texts.
        command_line: names and texts, read with ``parse_value``; where a setting must be text, the text as it is.

    Raises:
        UserError: a file cannot be read, a setting is unknown, not allowed or in conflict with another, the model
            is unknown, or the GPU asked for does not exist.
    """

    parameters: dict[str, list[str]]

    def __init__(
        self,
        model: type | str,
        dataset: str,
        config_file_list: list[str] | None = None,
        config_dict: dict[str, Any] | None = None,
        command_line: dict[str, str] | None = None,
    ) -> None:
        self._origins: dict[str, str] = {}
        self._command_line = dict(command_line or {})
        # Whether the number of users a batch may still go down with the size of the catalogue.
        self.auto_eval_batch = False
        try:
            super().__init__(model, dataset, config_file_list, copy.deepcopy(config_dict or {}))
        except _RECBOLE_CHECKS as error:  # UserError is none of these
            raise UserError(f"these settings do not fit together: {_one_sentence(error)}") from error
        self._check_valid_metric()

    def compatibility_settings(self) -> None:
        """Give numpy those old aliases that RecBole needs and this numpy lacks."""
        for name, alias in _NUMPY_ALIASES.items():
            if name not in vars(np):  # hasattr would warn in numpy 1.26
                setattr(np, name, alias)

    def _init_parameters_category(self) -> None:
        super()._init_parameters_category()
        # RecBole hands out its global lists and appends to them.
        self.parameters = {category: list(names) for category, names in self.parameters.items()}

    def _build_yaml_loader(self) -> type[PropertyLoader]:
        return PropertyLoader

    def _convert_config_dict(self, config_dict: Mapping[str, Any]) -> dict[str, Any]:
        values = {name: parse_value(value) if isinstance(value, str) else value for name, value in config_dict.items()}
        # RecBole takes a list where it takes several values, and refuses a tuple.
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def _load_config_files(self, file_list: list[str] | None) -> dict[str, Any]:
        settings: dict[str, Any] = {}
        for path in file_list or []:
            content = load_yaml(path)
            settings.update(content)
            self._origins.update(dict.fromkeys(content, f"in {path}"))
        return settings

    def _load_variable_config_dict(self, config_dict: dict[str, Any] | None) -> dict[str, Any]:
        settings = dict(config_dict or {})
        self._origins.update(dict.fromkeys(settings, "in the dictionary of settings"))
        return settings

    def _load_cmd_line(self) -> dict[str, Any]:
        self._origins.update(dict.fromkeys(self._command_line, "on the command line"))
        return self._convert_config_dict(self._command_line)

    def _get_model_and_dataset(self, model: type | str, dataset: str) -> tuple[str, type, str]:
        if not isinstance(dataset, str) or not re.fullmatch(r"[^/\\\0]+", dataset) or dataset in (".", ".."):
            raise UserError(
                f"the data set is {dataset!r}, but it must be a name such as ml-100k; "
                "`data_path` says in which folder the data sets lie"
            )
        try:
            name, model_class, dataset = super()._get_model_and_dataset(model, dataset)
        except (ValueError, AttributeError, ImportError) as error:
            names = [path.stem for path in (recbole_properties_dir() / "model").glob("*.yaml")]
            guess = nearest(str(model), names)
            advice = f"did you mean {guess}?" if guess else "RecBole's model list names those there are"
            raise UserError(f"there is no model `{model}`; {advice}") from error
        return name, model_class, dataset

    def _load_internal_config_dict(self, model: str, model_class: type, dataset: str) -> None:
        super()._load_internal_config_dict(model, model_class, dataset)
        inherited = recbole_properties_dir() / "model"
        if not (inherited / f"{model}.yaml").is_file():
            for base in model_names(model_class)[::-1]:
                if (inherited / f"{base}.yaml").is_file():
                    self._update_internal_config_dict(inherited / f"{base}.yaml")
                    break
        recboles = recbole_settings(model_class)
        own = [(path, describe_settings(path)) for path in own_property_files(model_class, dataset)]
        for _, items in own:
            self.internal_config_dict.update({item.name: item.value for item in items})
        rules, known = combined_rules(recboles, own), known_settings(model_class, recboles)
        self._check_user_settings(known, rules)
        self._settle_reason_only(known, rules)

    def _check_user_settings(self, known: set[str], rules: Mapping[str, Rule]) -> None:
        given = self.external_config_dict
        refuse_unknown({name: self._origins[name] for name in given}, known)
        for name, rule in rules.items():
            if name not in given:
                continue
            if name in self._command_line:
                given[name] = rule.of_text(self._command_line[name])
            given[name] = rule.check(name, given[name], self._origins[name])
        for name in ("metrics", "topk"):  # RecBole takes the first of each
            if given.get(name) == []:
                raise UserError(f"setting `{name}` is [] ({self._origins[name]}), but it must name at least one")
        refuse_pickles({**self.internal_config_dict, **given}, self._origins)
        refuse_processes({**self.internal_config_dict, **given}, self._origins)
        for name, keys in _DICT_KEYS.items():
            value = given.get(name)
            if isinstance(value, dict):
                origin = f"in `{name}`, {self._origins[name]}"
                refuse_unknown({str(key): origin for key in value}, keys)
        if isinstance(given.get("eval_args"), dict) and isinstance(self.internal_config_dict.get("eval_args"), dict):
            given["eval_args"] = {**self.internal_config_dict["eval_args"], **given["eval_args"]}

    def _settle_reason_only(self, known: set[str], rules: Mapping[str, Rule]) -> None:
        """Puts a data set's ``reason_only`` in place where nothing but reasoning is asked for, and drops it."""
        own = self.internal_config_dict.pop("reason_only", None) or {}
        origin = f"in `reason_only` of the property file of {self.dataset}"
        refuse_unknown(dict.fromkeys(own, origin), known)
        own = {name: rules[name].check(name, value, origin) if name in rules else value for name, value in own.items()}
        asked = {**self.internal_config_dict, **self.external_config_dict}
        if not any(asked.get(name) for name in _OTHER_EVIDENCE):
            self.internal_config_dict.update(own)

    def _set_default_parameters(self) -> None:
        final = self.final_config_dict
        pairwise = getattr(self.model_class, "input_type", None) == InputType.PAIRWISE
        without = getattr(self.model_class, "whole_sequence", False) or (
            final.get("loss_type") == "CE" and not pairwise
        )
        if without and "train_neg_sample_args" not in self._origins:
            final["train_neg_sample_args"] = None
        if not isinstance(final.get("data_path"), str):
            raise UserError(f"setting `data_path` is {final.get('data_path')!r}, but it must be a folder's path")
        final["data_path"] = os.path.expanduser(final["data_path"])
        own = os.path.join(final["data_path"], self.dataset)
        super()._set_default_parameters()
        # RecBole always takes ml-100k from its own package, even where the user has put the data in place.
        if os.path.isfile(os.path.join(own, f"{self.dataset}.inter")):
            final["data_path"] = own
        final["data_path"] = os.path.normpath(final["data_path"])

    def _init_device(self) -> None:
        final = self.final_config_dict
        ids = final["gpu_id"]
        final["gpu_id"] = ",".join(map(str, ids)) if isinstance(ids, list | tuple) else str(ids)
        final["single_spec"] = True
        final["local_rank"] = 0
        final["device"] = torch.device("cpu")
        if final["use_gpu"] and torch.cuda.is_available():
            first = final["gpu_id"].strip("[]() ").split(",")[0].strip()
            count = torch.cuda.device_count()
            if not first.isdigit() or int(first) >= count:
                raise UserError(
                    f"setting `gpu_id` is {final['gpu_id']!r}, but this machine's GPUs are 0 to {count - 1}; "
                    "name one of these, or set `use_gpu` to False to use the CPU"
                )
            final["device"] = torch.device("cuda", int(first))
        if final["eval_batch_size"] == "auto":
            self.auto_eval_batch = final["device"].type == "cpu"
            final["eval_batch_size"] = _AUTO_EVAL_BATCH[final["device"].type]

    def _check_valid_metric(self) -> None:
        # RecBole would find out after the first epoch.
        metric, _, k = str(self.final_config_dict["valid_metric"]).partition("@")
        metrics = [str(name) for name in self.final_config_dict["metrics"]]
        topk = self.final_config_dict["topk"]
        ranking = self.final_config_dict["eval_type"] == EvaluatorType.RANKING and metric.lower() != "gauc"
        if metric.lower() not in [name.lower() for name in metrics] or (ranking and k not in map(str, topk)):
            allowed = f"{metrics[0]}@{topk[0]}" if ranking else metrics[0]
            raise UserError(
                f"setting `valid_metric` is {self.final_config_dict['valid_metric']!r}, but it must be one of the "
                f"`metrics` {metrics}" + (f" at one of the `topk` {topk}" if ranking else "") + f", such as {allowed}"
            )


def resolved_settings(config: Config) -> dict[str, Any]:
    """All final settings as plain data for ``json``: devices, paths and classes as text, enumerations by name."""
    return {str(name): _plain(value) for name, value in config.final_config_dict.items()}


def given_settings(config: Config) -> set[str]:
    """Names of the settings that the user gave, by file, dictionary or command line, over the property files."""
    return set(config.external_config_dict)


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((_plain(item) for item in value), key=str)
    return str(value.as_posix() if isinstance(value, Path) else value)


def _one_sentence(error: BaseException) -> str:
    # str() of a KeyError is the repr of its message.
    message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(message.split()).rstrip(".") or type(error).__name__
