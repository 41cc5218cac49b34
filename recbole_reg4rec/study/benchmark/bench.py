"""What a worker does: prepares data, builds one contender, and trains or evaluates it for a time-slice."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from recbole.data.dataloader import FullSortEvalDataLoader

from recbole_reg4rec.config import resolved_settings
from recbole_reg4rec.data.groups import data_and_split_fingerprint
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.study.benchmark.machine import gpu_rates, machine_rates
from recbole_reg4rec.study.benchmark.memory import resident_mb, restart_peak
from recbole_reg4rec.study.benchmark.operations import decoding_operations, shapes_of, training_operations
from recbole_reg4rec.study.benchmark.shares import profile
from recbole_reg4rec.study.benchmark.slices import Batches, TestSlice, TrainingSlice
from recbole_reg4rec.study.job import Job, assemble, evaluate, train
from recbole_reg4rec.study.pipeline import configure, prepare_data, tokenize_data
from recbole_reg4rec.study.record import peak_gpu_memory_mb, peak_memory_mb, portable_settings
from recbole_reg4rec.trainer.heap import release_free_memory


class Bench:
    """Answers requests one after the other; see `answer`."""

    def __init__(self) -> None:
        self._job: Job
        self._training: Batches
        self._testing: Batches

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Does what ``request["do"]`` names, one of the public methods but this; ``seconds`` is how long a slice lasts.

        Raises:
            UserError: any mistake that the user can mend.
        """
        task = {
            "machine": self.machine,
            "prepare": self.prepare,
            "load": self.load,
            "train": self.train,
            "evaluate": self.evaluate,
            "profile": self.profile,
            "accuracy": self.accuracy,
            "align": self.align,
        }[request["do"]]
        return task(request)

    def machine(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Rates of the machine, see `machine.machine_rates`; ``gpu``: those of the GPU, None without one in use."""
        gpu = None
        if request["gpu"] is not None and torch.cuda.is_available():
            gpu = gpu_rates(request["seconds"], torch.device("cuda", request["gpu"]))
        return {**machine_rates(request["seconds"]), "gpu": gpu}

    def prepare(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Reads a data set and, for a model of tokens, fits its codes, which are kept for whoever loads it next.

        Returns:
            ``data_seconds``; ``tokenizer_seconds``, None without tokens; ``statistics`` of the data and ``fingerprint``
            of data and split.
        """
        config = _configure(request)
        begin = perf_counter()
        data = prepare_data(config)
        found: dict[str, Any] = {"data_seconds": perf_counter() - begin, "tokenizer_seconds": None}
        if getattr(config.model_class, "needs_tokens", False):
            found["tokenizer_seconds"] = tokenize_data(config, data).seconds
        if not isinstance(data.test, FullSortEvalDataLoader):
            raise UserError(
                "setting eval_args asks for sampled candidates, but full rankings are what is timed; set mode to full"
            )
        fingerprint = data_and_split_fingerprint(data.train._dataset, data.test._dataset)
        return {**found, "statistics": data.dataset.statistics.as_dict(), "fingerprint": fingerprint}

    def load(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Builds a contender.

        Returns:
            its settings and size, ``libraries_mb`` held before there were data, ``loaded_mb`` held now, and for REG4Rec
            the shapes with the operations a target and a user.
        """
        config = _configure(request)
        libraries = resident_mb()
        job = self._job = assemble(config)
        trainer, data = job.trainer, job.data
        trainer.eval_collector.data_collect(data.train)
        # The trainer's own steps, a slice of an epoch at a time; `fit` would do whole epochs.
        self._training = Batches(data.train, lambda epoch: trainer._seed_epoch(epoch, data.train))
        self._testing = Batches(data.test)
        release_free_memory()
        found: dict[str, Any] = {
            "settings": portable_settings(resolved_settings(config)),
            "parameters": sum(p.numel() for p in job.recommender.parameters() if p.requires_grad),
            "device": config["device"].type,
            "libraries_mb": libraries,
            "loaded_mb": resident_mb(),
        }
        shapes = shapes_of(job.recommender, config, data)
        if shapes is not None:
            operations = {"target": training_operations(shapes), "user": decoding_operations(shapes)}
            found.update(shapes=shapes.as_dict(), operations=operations)
        return found

    def train(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """A slice of training: ``count`` targets in ``seconds``, ``batches``, and the peak of memory meanwhile."""
        trainer = self._job.trainer
        part = TrainingSlice(self._training, request["seconds"])
        alone = restart_peak()
        begin = perf_counter()
        trainer._train_epoch(part, 0)
        found = _slice(part.count, part.batches, perf_counter() - begin, alone)
        if trainer.stage.collapsed:
            found["collapsed"] = trainer.stage.collapsed
        return found

    def align(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """From here on `train` trains stage 2."""
        trainer, data = self._job.trainer, self._job.data
        if trainer.stage_number == 0:
            trainer._enter(1, saved=False)
        self._training = Batches(data.train, lambda epoch: trainer._seed_epoch(epoch, data.train))
        return {}

    def evaluate(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """A slice of full-sort evaluation as after every epoch, metrics included: ``count`` users, else as `train`."""
        part = TestSlice(self._testing, request["seconds"])
        release_free_memory()  # of training, so that the peak is evaluation's own
        alone = restart_peak()
        begin = perf_counter()
        self._job.trainer.evaluate(part, load_best_model=False)
        return _slice(part.count, part.batches, perf_counter() - begin, alone)

    def profile(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """A slice of evaluation whose seconds are told by part, see `shares.PARTS`; by one thread of torch.

        So that all is done in this thread of Python, the one that the profiler sees.
        """
        found: dict[str, Any] = {}
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            parts = profile(lambda: found.update(self.evaluate(request)))
        finally:
            torch.set_num_threads(threads)
        return {**found, "parts": parts}

    def accuracy(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Trains whole epochs, by the settings, and evaluates the best one on test: ``recall@10``, ``ndcg@10``."""
        train(self._job)
        outcome, trainer = evaluate(self._job), self._job.trainer
        return {
            "recall@10": outcome.test.get("recall@10"),
            "ndcg@10": outcome.test.get("ndcg@10"),
            "epochs": len(trainer.epochs_log),
            "seconds": trainer.train_seconds,
        }


def _configure(request: Mapping[str, Any]) -> Any:
    """The configuration of a job; everything that is written goes to the folder ``room``."""
    names = ("model", "dataset", "config_file_list", "config_dict", "command_line")
    config = configure(**{name: request[name] for name in names})
    config["data_path"] = request["folder"]
    config["checkpoint_dir"] = os.path.join(request["room"], "saved")
    config["tokenizer_cache"] = os.path.join(request["room"], "tokens")
    # RecBole keeps its logs for tensorboard in the working folder.
    Path(request["room"]).mkdir(parents=True, exist_ok=True)
    return config


def _slice(count: int, batches: int, seconds: float, alone: bool) -> dict[str, Any]:
    """``peak_is_of_slice``: whether the peak is of the slice, not of the whole process."""
    return {
        "count": count,
        "batches": batches,
        "seconds": seconds,
        "peak_memory_mb": peak_memory_mb(),
        "peak_gpu_memory_mb": peak_gpu_memory_mb(),
        "peak_is_of_slice": alone,
    }
