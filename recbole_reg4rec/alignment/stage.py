"""Stage 2 as the trainer sees it: sampled groups, their rewards, the loss, the log, and the guard against collapse."""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_reg4rec.alignment.future import FutureItems, check_window, future_items
from recbole_reg4rec.alignment.grpo import clipped_objective, divergence, entropy, group_advantages
from recbole_reg4rec.alignment.rewards import RewardWeights, path_rewards
from recbole_reg4rec.alignment.sampling import Hopes, Sampler, replay
from recbole_reg4rec.alignment.tree import Groups, Level, Walk, pick, subtree
from recbole_reg4rec.data.sequences import FUTURE, TARGETS, WholeSequenceLoader
from recbole_reg4rec.model.history import History, HistoryEncoder
from recbole_reg4rec.model.reasoner import Reasoner
from recbole_reg4rec.model.reg4rec import REG4Rec
from recbole_reg4rec.model.repeat import SeenOdds
from recbole_reg4rec.model.supervision import category_loss

# Steps whose mean the guard judges, so that one odd batch stops nothing.
_GUARDED_STEPS = 10


class AlignmentStage:
    """GRPO on sampled paths, from the model as stage 1 left it (paper; what is a setting ``align_*``: mostly choice).

    Args:
        config: settings ``align_*`` and ``reward_*`` of ``properties/model/REG4Rec.yaml``.
        model: the recommender, trained in place.
        loader: of the training data; gets to look ``align_future`` items ahead.

    Attributes:
        collapsed: why the stage has to stop, or None.

    Raises:
        UserError: no reward has a weight, or no training history is as long as the window.
    """

    name, prefix = "alignment", "align_"

    def __init__(self, config: Any, model: REG4Rec, loader: WholeSequenceLoader) -> None:
        self.epochs, self.stopping_step = int(config["align_epochs"]), int(config["align_stopping_step"])
        self.eval_step = int(config["align_eval_step"])
        self.learning_rate = float(config["align_learning_rate"])
        self.schedule, self.warmup_steps = str(config["align_schedule"]), int(config["align_warmup_steps"])
        self.collapsed: str | None = None
        self._model, self._loader = model, loader
        self._weights = RewardWeights(
            step_hit=float(config["reward_step_hit"]),
            global_path=float(config["reward_global_path"]),
            category_hit=float(config["reward_category_hit"]),
            step_consistency=float(config["reward_step_consistency"]),
        )
        self._group, self._future = int(config["align_group"]), int(config["align_future"])
        check_window(loader.sequences, self._future)
        self._gamma, self._clip = float(config["align_gamma"]), float(config["align_clip"])
        self._kl_weight = float(config["align_kl_weight"])
        self._kl_paths = min(int(config["align_kl_paths"]), self._group)
        self._kl_share = float(config["align_kl_share"])
        self._supervised_weight = float(config["align_supervised_weight"])
        self._supervised_share = float(config["align_supervised_share"])
        self.updates, self._train_encoder = int(config["align_updates"]), bool(config["align_encoder"])
        self._dropout = bool(config["align_dropout"])
        self._max_kl, self._min_entropy = float(config["align_max_kl"]), float(config["align_min_entropy"])
        self._log_every = int(config["align_log_every"])
        self._item_list = config["ITEM_ID_FIELD"] + config["LIST_SUFFIX"]
        self._sampler = Sampler(
            model.catalogue,
            model.members,
            model.decoding_order,
            float(config["align_temperature"]),
            self._weights.need_categories,
            model.steps if model.steps < model.catalogue.codebooks else None,
        )
        self._reference: tuple[HistoryEncoder, Reasoner] | None = None
        self._steps: list[dict[str, float]] = []
        self._recent: deque[tuple[float, float]] = deque(maxlen=_GUARDED_STEPS)

    def begin(self) -> None:
        """Freezes the model as it is now for the KL term, and looks ahead in the training data from here on."""
        # Both at once, so that they go on sharing the token table.
        encoder, reasoner = copy.deepcopy((self._model.reader, self._model.decoder))
        for part in (encoder, reasoner):
            part.eval().requires_grad_(False)
        self._reference = encoder, reasoner
        self._loader.future = self._future

    def begin_epoch(self, epoch: int) -> None:
        """Nothing to prepare."""

    def losses(self, interaction: Interaction) -> Iterator[tuple[Tensor, ...]]:
        """Samples once and gives the loss of each update: policy, weighted KL, weighted supervised term; scalars.

        The trainer takes its optimiser step before it asks for the next one.

        Args:
            interaction: a batch of the training data with `data.sequences.FUTURE`.
        """
        model = self._model
        items, trained = interaction[self._item_list], interaction[TARGETS] > 0
        targets = interaction[TARGETS][trained]
        draw = torch.rand(len(targets), device=targets.device)
        compared, supervised = _chosen(draw, self._kl_share), None
        if self._supervised_weight > 0:
            supervised = (targets * _chosen(draw, self._supervised_share)).unsqueeze(1)
        model.eval()
        with torch.no_grad():
            history, odds = model.reader(items), model.odds_at(items, trained)
        scorer = model.scorer(model.decoder, odds=odds)
        window = future_items(interaction[FUTURE], trained, self._future, self._gamma)
        near = torch.zeros(len(targets), self._group, dtype=torch.bool, device=targets.device)
        near[:, : self._kl_paths] = compared.unsqueeze(1)
        hopes = Hopes(model.catalogue, window.items, near) if self._weights.only_whole_paths else None
        groups = self._sampler.sample(model.decoder, scorer, history, trained, self._group, supervised, hopes)
        rewards = self._rewards(groups, window)
        total = sum(weight * rewards[kind] for kind, weight in self._weights.as_dict().items() if kind in rewards)
        assert isinstance(total, Tensor)
        advantages, signal = group_advantages(total)
        levels, close, kept = self._learned(groups, signal, near)
        reference = self._of_reference(items, close, odds)
        model.train(self._dropout)
        old: list[Tensor] = []
        for update in range(self.updates):
            # Every update changes the tokens that the encoder reads by, whether or not it is trained itself.
            if self._train_encoder or self._dropout or update > 0:
                history = self._read(items)
            walk = self._replay(model.decoder, history, levels, odds)
            old = old or [log_probs.detach() for log_probs in walk.log_probs]
            parts = {"objective": self._objective(groups, levels, walk, old, advantages)}
            parts["kl"], parts["entropy"] = self._spread(close, kept, walk, reference, int(compared.sum()))
            if update == 0:
                self._log(groups, parts, rewards, total, signal)
                if self.collapsed:
                    return
            losses = [-parts["objective"], self._kl_weight * parts["kl"]]
            if supervised is not None:
                losses.append(self._supervised_weight * self._supervise(groups, levels, walk, targets))
            yield tuple(losses)

    def epoch_log(self) -> dict[str, Any]:
        """Means over the steps since the last call, and over every ``align_log_every`` of them; starts anew."""
        steps, self._steps = self._steps, []
        self._recent.clear()
        pieces = [steps[at : at + self._log_every] for at in range(0, len(steps), self._log_every)]
        return {"alignment": _mean(steps), "alignment_steps": [_mean(piece) for piece in pieces]} if steps else {}

    # ------------------------------------------------------------------------------------------------ one batch

    def _read(self, items: Tensor) -> History:
        with torch.set_grad_enabled(self._train_encoder):
            return self._model.reader(items)

    @torch.no_grad()
    def _of_reference(self, items: Tensor, levels: list[Level], odds: SeenOdds | None) -> list[Tensor]:
        """The frozen model's distributions along the same paths."""
        assert self._reference is not None, "begin() freezes it"
        encoder, reasoner = self._reference
        return self._replay(reasoner, encoder(items), levels, odds).log_probs

    def _replay(self, reasoner: Reasoner, history: History, levels: list[Level], odds: SeenOdds | None) -> Walk:
        scorer = self._model.scorer(reasoner, odds=odds)
        return replay(reasoner, scorer, history, levels, self._sampler.temperature)

    def _learned(self, groups: Groups, signal: Tensor, near: Tensor) -> tuple[list[Level], list[Level], list[Tensor]]:
        """What of the tree says something to the policy: groups with a signal, true paths, and what KL is estimated on.

        ``signal``: bool ``[R]``, contexts. ``near``: bool ``[R, G]``, the paths of the latter.

        Returns:
            the levels of all this; those of the paths that KL and entropy are estimated on; and which nodes of the
            former the latter have.
        """
        near = torch.nn.functional.pad(near, (0, groups.items.shape[1] - self._group))
        learned = near.clone()
        learned[:, : self._group] |= signal.unsqueeze(1)
        learned[:, self._group :] = groups.items[:, self._group :] > 0
        levels, _ = subtree(groups.levels, learned.flatten())
        return levels, *subtree(levels, near.flatten())

    def _rewards(self, groups: Groups, window: FutureItems) -> dict[str, Tensor]:
        """By kind, float32 ``[R, G]``; where whole paths alone earn, that kind alone, since not all come to an end."""
        drawn = slice(self._group)
        found = path_rewards(
            groups.books[:, drawn],
            groups.tokens[:, drawn],
            groups.categories[:, drawn] if self._weights.need_categories else None,
            self._model.catalogue.codes[window.items],
            self._model.members[window.items],
            window.shares,
        )
        if self._weights.only_whole_paths:
            return {"global_path": found["global_path"] * (groups.items[:, drawn] > 0)}
        return found

    def _objective(
        self, groups: Groups, levels: list[Level], walk: Walk, old: list[Tensor], advantages: Tensor
    ) -> Tensor:
        """What is to be maximised, summed over the steps of a path, mean over all paths drawn; scalar."""
        size = groups.items.shape[1]
        earned = torch.nn.functional.pad(advantages, (0, size - self._group)).flatten()
        paths = advantages.numel()
        objective = advantages.new_zeros(())
        for level, log_probs, before in zip(levels, walk.log_probs, old, strict=True):
            sampled = level.paths % size < self._group
            node, token, path = level.nodes[sampled], level.columns[sampled], level.paths[sampled]
            gain = clipped_objective(pick(log_probs, node, token), pick(before, node, token), earned[path], self._clip)
            objective = objective + gain.sum() / paths
        return objective

    def _spread(
        self, levels: list[Level], kept: list[Tensor], walk: Walk, reference: list[Tensor], contexts: int
    ) -> tuple[Tensor, Tensor]:
        """Divergence from the reference, and entropy, of a path, mean over those of ``levels``; nats, scalars."""
        kl = spread = reference[0].new_zeros(())
        for level, nodes, log_probs, frozen in zip(levels, kept, walk.log_probs, reference, strict=True):
            visits = torch.bincount(level.nodes, minlength=len(frozen)) / (contexts * self._kl_paths)
            # Lists of answers may be longer among all that is learned from; what is behind is never open here.
            ours = log_probs.index_select(0, nodes)[:, : frozen.shape[1]]
            kl = kl + (divergence(ours, frozen) * visits).sum()
            spread = spread + (entropy(ours.detach()) * visits).sum()
        return kl, spread

    def _supervise(self, groups: Groups, levels: list[Level], walk: Walk, targets: Tensor) -> Tensor:
        """Negative log-likelihood of the target along its own path, with the category loss as in stage 1."""
        model, size = self._model, groups.items.shape[1]
        loss = walk.hidden[0].new_zeros(())
        shown = (groups.items[:, self._group] > 0).sum()
        for level, log_probs, hidden in zip(levels, walk.log_probs, walk.hidden, strict=True):
            true = level.paths % size == self._group
            node = level.nodes[true]
            loss = loss - pick(log_probs, node, level.columns[true]).sum() / shown
            weight = model.supervision.category_weight
            if weight > 0 and len(node):
                members = model.members[targets[level.paths[true] // size]]
                logits = model.decoder.category_logits(hidden.index_select(0, node))
                loss = loss + weight * len(node) / shown / model.steps * category_loss(logits, members)
        return loss

    # ------------------------------------------------------------------------------------------- log and guard

    def _log(
        self, groups: Groups, parts: dict[str, Tensor], rewards: dict[str, Tensor], total: Tensor, signal: Tensor
    ) -> None:
        codes = self._model.catalogue.codes[groups.items].gather(2, groups.books)
        ended = groups.items[:, : self._group] > 0
        valid = (codes == groups.tokens).all(2)[:, : self._group][ended]
        entry = {f"reward_{kind}": float(values.mean()) for kind, values in rewards.items()}
        entry.update(
            reward=float(total.mean()),
            kl=float(parts["kl"].detach()),
            entropy=float(parts["entropy"]),
            no_signal=1.0 - float(signal.float().mean()),
            valid=float(valid.float().mean()),
        )
        self._steps.append(entry)
        self._recent.append((entry["kl"], entry["entropy"]))
        if not all(map(math.isfinite, entry.values())):
            self.collapsed = "a reward, the KL divergence or the entropy of the policy is not a number"
        elif len(self._recent) == _GUARDED_STEPS:
            kl, spread = (sum(values) / _GUARDED_STEPS for values in zip(*self._recent, strict=True))
            if kl > self._max_kl:
                self.collapsed = f"the policy is {kl:.3f} nats a path from stage 1, beyond align_max_kl={self._max_kl}"
            elif spread < self._min_entropy:
                self.collapsed = (
                    f"the policy's entropy is {spread:.3f} nats a path, below align_min_entropy={self._min_entropy}"
                )


def _chosen(draw: Tensor, share: float) -> Tensor:
    """A share of the contexts, bool ``[R]``, by draws in ``[0, 1)``; at least one, and a larger share has them all."""
    return draw <= draw.min().clamp(min=share)


def _mean(steps: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(sum(step[name] for step in steps) / len(steps), 5) for name in steps[0]}
