"""REG4Rec as a RecBole sequential model (docs/method.md, 2 and 4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_reg4rec.data.dataset import SEEN
from recbole_reg4rec.data.repeats import repeat_odds
from recbole_reg4rec.data.sequences import TARGETS, training_sequences
from recbole_reg4rec.decoding.beam import ORDERS, Paths, beam_search
from recbole_reg4rec.decoding.catalogue import Catalogue
from recbole_reg4rec.decoding.corp import PrunedStep, corp_rule
from recbole_reg4rec.decoding.scoring import item_scores
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.model.catalogue_scorer import CatalogueScorer
from recbole_reg4rec.model.evidence import EvidenceWeights, ItemPath, log_share
from recbole_reg4rec.model.gate import Gate
from recbole_reg4rec.model.history import FORMS, History, HistoryEncoder, TokenTable, own_vectors
from recbole_reg4rec.model.lanes import Lanes
from recbole_reg4rec.model.memory import build_memory
from recbole_reg4rec.model.reasoner import Reasoner, ReasoningSession
from recbole_reg4rec.model.repeat import Repeat, SeenOdds, newest_places
from recbole_reg4rec.model.sampled_softmax import ItemSample, draw_sample
from recbole_reg4rec.model.scorers import CodebookScorer, TokenScorer, reasoning_steps
from recbole_reg4rec.model.size import epochs_for, sized_for
from recbole_reg4rec.model.steps import Steps
from recbole_reg4rec.model.supervision import Supervision
from recbole_reg4rec.model.tokens import ItemTokens
from recbole_reg4rec.model.whole_sequence import last_states

__all__ = ["FORMS", "ORDERS", "REG4Rec"]

_Part = TypeVar("_Part")
_Taken = TypeVar("_Taken")


@dataclass(frozen=True)
class Ranking:
    """Scores of all items, float32 ``[B, items + 1]``, with what they come from.

    ``summed``: before the gate. ``evidence``: each kind before its weight, by name, same shape. ``paths``: None where
    reasoning has no weight.
    """

    scores: Tensor
    summed: Tensor
    evidence: dict[str, Tensor]
    paths: Paths | None


class REG4Rec(SequentialRecommender):
    """Reasons towards the next item one token a step, each from the codebook it is surest of.

    Args:
        config: RecBole configuration with the settings of ``properties/model/REG4Rec.yaml``.
        dataset: the training split.
        tokens: codes and categories of the items, as the tokenizer made them.

    Attributes:
        shape: sizes of the layers, see `layers.layer_shape`, with what the settings leave to the data.
        supervised_epochs: most passes of stage 1, in the same way.
    """

    # The training loader gives whole sequences (`data.sequences`), not RecBole's prefixes.
    whole_sequence = True
    needs_tokens = True
    # Searches for paths of some users in each thread (`lanes`).
    in_lanes = True
    input_type = InputType.POINTWISE

    def __init__(self, config: Any, dataset: Any, tokens: ItemTokens) -> None:
        super().__init__(config, dataset)
        codes = torch.from_numpy(tokens.codes)
        layers = int(config["n_layers"])
        targets, items = len(dataset.inter_feat), dataset.item_num - 1
        self.shape = shape = sized_for(config, targets, items)
        self.supervised_epochs = epochs_for(config, targets, items)
        width = shape["width"]
        self.catalogue = Catalogue(codes, tokens.codewords)
        self.register_buffer("members", torch.from_numpy(tokens.members), persistent=False)
        # So that an item, the sum of its tokens, is of length 1 at first, however many these are.
        new_table = partial(TokenTable, codes, tokens.codewords, width, length=codes.shape[1] ** -0.5)
        new_encoder = partial(HistoryEncoder, form=config["history_form"], longest=self.max_seq_length, **shape)
        self.memory = build_memory(config, dataset) if config["memory"] else None
        self.repeat = None
        if config["repeat"]:
            self.repeat = Repeat(repeat_odds(training_sequences(dataset), dataset.item_num))
        self.given_weights = EvidenceWeights.from_settings(config)
        # Part of what is learned: they may be fitted on validation.
        self.register_buffer("fitted_weights", self.given_weights.as_tensor())
        # Each reads the histories in its own way: trained as one they get in each other's, and two that err alike say
        # no more than one of them.
        new_path = partial(new_encoder, layers=layers)
        self.item_path = ItemPath(new_table(), new_path) if config["item_path"] else None
        self.control = ItemPath(new_table(), new_path) if config["control"] else None
        if config["control"] and config["reason"]:
            raise UserError("setting control is True, but its place is that of reason, which is on; set reason: False")
        decoder_layers = layers // 2 if config["reason"] else 0
        if config["reason"] and not decoder_layers:
            raise UserError("setting n_layers is 1, which leaves the decoder none; make it 2 or more, or reason: False")
        self.catalogue_softmax = config["token_softmax"] == "catalogue"
        self.encoder: HistoryEncoder | None = None
        self.reasoner: Reasoner | None = None
        if config["reason"]:
            table = new_table()
            # Within a codebook there is no item yet, whose vector could count.
            identity = own_vectors(table) if config["reason_identity"] and self.catalogue_softmax else None
            left = layers - decoder_layers
            read = left if config["encoder_layers"] == "auto" else int(config["encoder_layers"])
            self.encoder = new_encoder(table=table, layers=read, identity=identity)
            self.reasoner = Reasoner(
                table,
                tokens.categories,
                layers=decoder_layers,
                start_from_history=bool(config["start_from_history"]),
                grounded=bool(config["grounded"]),
                identity=identity,
                **shape,
            )
        elif self.item_path is None:
            raise UserError("settings reason and item_path are both off, which leaves nothing to train; switch one on")
        kinds = self._kinds()
        gated = config["gate"] and len(kinds) > 1
        self.gate = Gate(kinds, int(config["gate_items"]), int(config["gate_hidden"])) if gated else None
        self.reason_repeats = bool(config["reason_repeats"]) and self.catalogue_softmax
        self.steps = reasoning_steps(config)
        self.supervision = Supervision.from_settings(config, self.catalogue)
        self.softmax_items = int(config["softmax_items"])
        # Without reasoning there is nothing else to train.
        self._item_epochs = int(config["item_epochs"] or 0) if config["reason"] else 0
        self._recognises = self.item_path is not None
        # From here on the item path stays as it is.
        self.item_path_stopped = False
        self.decoding_order = str(config["decoding_order"])
        self.beam_width = int(config["beam_width"])
        self.beam_branch = int(config["beam_branch"])
        self.corp = corp_rule(config)
        # What CORP checked in the last call of `full_sort_predict`, for whoever knows the targets: of some users, of
        # those behind them, and so on.
        self.checks: tuple[tuple[PrunedStep, ...], ...] = ()
        # The scores without paths of the last call, float32 ``[B, items + 1]``, if they are asked for.
        self.keeps_rest, self.rest = False, None
        self._lanes = Lanes()
        self._seed = int(config["seed"])

    members: Tensor
    fitted_weights: Tensor
    rest: Tensor | None

    def _kinds(self) -> list[str]:
        """Names of the kinds of evidence that are on and have a weight."""
        parts = {"reason": self.reasoner, "recognise": self.item_path, "remember": self.memory, "repeat": self.repeat}
        parts["control"] = self.control
        return [name for name, part in parts.items() if part is not None and getattr(self.given_weights, name) > 0]

    @property
    def weights(self) -> EvidenceWeights:
        """Weights of the kinds of evidence: those of the settings until `weigh` sets others."""
        return EvidenceWeights.from_tensor(self.fitted_weights)

    def weigh(self, weights: EvidenceWeights) -> None:
        """Ranks by these weights from here on."""
        self.fitted_weights.copy_(weights.as_tensor())

    # ---------------------------------------------------------------------------------------------- training

    def begin_epoch(self, epoch: int) -> None:
        """Leaves the item path as it is from the epoch on that `item_epochs` says, counted from 0, or once stopped."""
        self._recognises = not self.item_path_stopped and (not self._item_epochs or epoch < self._item_epochs)

    def item_parts(self) -> dict[str, nn.Module]:
        """What is trained by the loss of the item path alone; empty where nothing is trained beside it."""
        if self.reasoner is None or self.item_path is None:
            return {}
        return {"item_path": self.item_path, **({"repeat": self.repeat} if self.repeat is not None else {})}

    def calculate_loss(self, interaction: Interaction) -> tuple[Tensor, ...]:
        """Stage 1: token loss, weighted category loss and, with the item path, item loss; nats a target, scalars.

        Args:
            interaction: a batch of `data.sequences.WholeSequenceLoader`.
        """
        items, targets = interaction[self.ITEM_SEQ], interaction[TARGETS]
        sample = draw_sample(torch.stack([items, targets]), self.catalogue.items, self.softmax_items)
        losses: tuple[Tensor, ...] = ()
        paths = [path for path in (self.item_path, self.control) if path is not None] if self._recognises else []
        extra = self._repeating(items, targets > 0) if paths or self.reason_repeats else None
        if self.reasoner is not None:
            odds = self._odds_of_reasoning(extra, int((targets > 0).sum()))
            scorer = self.scorer(self.reasoner, sample, odds)
            losses = self.supervision.losses(self.reasoner, scorer, self.reader(items), targets, self.members)
        return (*losses, *(self._item_loss(path, items, targets, extra, sample) for path in paths))

    def _repeating(self, items: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """What repeating adds at some places of histories, bool ``[B, T]``: see `softmax`; None without repeat."""
        if self.repeat is None:
            return None
        number, seen, ages = newest_places(items, places)
        return number, seen, self.repeat(ages)

    def _odds_of_reasoning(self, extra: tuple[Tensor, Tensor, Tensor] | None, contexts: int) -> SeenOdds | None:
        """The same as reasoning takes it: as it is, for the item path to learn; None where it takes no notice."""
        if extra is None or not self.reason_repeats:
            return None
        number, seen, values = extra
        return SeenOdds.of(number, seen, values.detach(), contexts, self.n_items)

    def odds_at(self, items: Tensor, places: Tensor) -> SeenOdds | None:
        """What reasoning takes repeating to add at some places of histories, int64 and bool ``[B, T]``.

        Contexts are all ``B * T`` places, in order; None where reasoning takes no notice of repeating.
        """
        extra = self._repeating(items, places)
        if extra is not None:
            extra = places.flatten().nonzero().squeeze(1).index_select(0, extra[0]), *extra[1:]
        return self._odds_of_reasoning(extra, places.numel())

    def _item_loss(
        self,
        path: ItemPath,
        items: Tensor,
        targets: Tensor,
        extra: tuple[Tensor, Tensor, Tensor] | None,
        sample: ItemSample | None,
    ) -> Tensor:
        """Loss of the item path at all targets, int64 ``[B, T]``, 0 for none, repeating included; scalar, nats."""
        trained = targets > 0
        return path.loss(path.encoder(items).last[trained], targets[trained], extra, sample)

    def scorer(self, reasoner: Reasoner, sample: ItemSample | None = None, odds: SeenOdds | None = None) -> TokenScorer:
        """How this model turns the states of a decoder into probabilities; of its weights as they are now."""
        if self.catalogue_softmax:
            return CatalogueScorer(reasoner, self.catalogue, sample, odds)
        return CodebookScorer(reasoner, self.catalogue)

    # ---------------------------------------------------------------------------------------------- inference

    def reason(self, items: Tensor, lengths: Tensor, complete: bool = False, seen: Tensor | None = None) -> Paths:
        """The best paths for histories: int64 ``[B, T]`` (0 pads on the right) and ``[B]``, in ``[1, T]``.

        ``seen``: see `rank`.

        Raises:
            UserError: the model was built without reasoning.
        """
        return self._reason(*self._read(items, lengths), lengths, self.odds_of(items, seen), complete)

    def odds_of(self, items: Tensor, seen: Tensor | None = None) -> SeenOdds | None:
        """What reasoning takes repeating to add for users, see `rank`; None where it takes no notice of it."""
        return self._seen_odds(items, seen) if self.reason_repeats else None

    def _seen_odds(self, items: Tensor, seen: Tensor | None) -> SeenOdds | None:
        """What repeating adds for users, see `rank`; None without repeat."""
        return None if self.repeat is None else self.repeat.odds(items if seen is None else seen, self.n_items)

    def _read(self, items: Tensor, lengths: Tensor) -> tuple[History, Tensor]:
        """The encoded history and the state behind its last item, ``[B, 1, d]``."""
        history = self.reader.read(items, lengths)
        return history, last_states(history.last, lengths)

    def open_session(self, items: Tensor, lengths: Tensor) -> ReasoningSession:
        """Paths about to start behind histories, see `reason`; one a user."""
        return self._session(*self._read(items, lengths), lengths)

    def _session(self, history: History, last: Tensor, lengths: Tensor) -> ReasoningSession:
        return self.decoder.session(history, last, history.mask_behind(lengths), causal=False)

    @property
    def reader(self) -> HistoryEncoder:
        """The encoder that reasoning reads histories by; raises as `decoder` does."""
        return self._of_reasoning(self.encoder)

    @property
    def decoder(self) -> Reasoner:
        """The reasoner.

        Raises:
            UserError: the model was built without it.
        """
        return self._of_reasoning(self.reasoner)

    @staticmethod
    def _of_reasoning(part: _Part | None) -> _Part:
        if part is None:
            raise UserError("setting reason is off, so that there are no paths to ask for; train with reason: True")
        return part

    def _reason(
        self, history: History, last: Tensor, lengths: Tensor, odds: SeenOdds | None, complete: bool = False
    ) -> Paths:
        session = self._session(history, last, lengths)
        generator = torch.Generator().manual_seed(self._seed)
        model = Steps(self.decoder, session, self.scorer(self.decoder, odds=odds))
        paths = beam_search(
            model,
            self.catalogue,
            self.beam_width,
            order=self.decoding_order,
            branch=self.beam_branch,
            generator=generator,
            complete=complete,
            corp=self.corp,
            gives="shares" if self.catalogue_softmax else "logits",
            steps=self.steps,
            among=model.among,
        )
        return replace(paths, prior=model.prior)

    def evidence(self, interaction: Interaction) -> dict[str, Tensor]:
        """Each kind of evidence that is on and has a weight, before it, float32 ``[B, items + 1]``."""
        return _joined(self._ranked(interaction, lambda ranking: ranking.evidence))

    def summed(self, interaction: Interaction) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of the evidence, without the gate, and the evidence; float32 ``[B, items + 1]`` each."""
        found = self._ranked(interaction, lambda ranking: (ranking.summed, ranking.evidence))
        return _in_one([summed for summed, _ in found]), _joined([evidence for _, evidence in found])

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """A finite score for every item, float32 ``[B, items + 1]``."""
        found = self._ranked(interaction, self._scored)
        self.checks = tuple(checks for _, checks, _ in found if checks)
        if self.keeps_rest:
            self.rest = _in_one([rest for _, _, rest in found if rest is not None])
        return _in_one([scores for scores, _, _ in found])

    def _scored(self, ranking: Ranking) -> tuple[Tensor, tuple[PrunedStep, ...], Tensor | None]:
        rest = None
        if self.keeps_rest:
            rest = self.weights.combine({kind: part for kind, part in ranking.evidence.items() if kind != "reason"})
        return ranking.scores, ranking.paths.checks if ranking.paths is not None else (), rest

    def _ranked(self, interaction: Interaction, take: Callable[[Ranking], _Taken]) -> list[_Taken]:
        """What is taken from the rankings of a batch's users, part by part (`lanes`), in their order."""
        items, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        seen = interaction.interaction.get(SEEN)  # more than the model's reach, where the data set was asked for it

        def work(model: REG4Rec, rows: slice) -> _Taken:
            return take(model.rank(items[rows], lengths[rows], None if seen is None else seen[rows]))

        return self._lanes.each(self, len(items), work)

    def rank(self, items: Tensor, lengths: Tensor, seen: Tensor | None = None, search: bool = False) -> Ranking:
        """Scores of all items for histories: int64 ``[B, T]`` (0 pads on the right) and ``[B]``, in ``[1, T]``.

        ``seen``: int64 ``[B, S]``, all that the users took, oldest first, 0 pads; none: what is in ``items``.
        ``search``: look for paths even where reasoning has no weight; the scores are the same.
        """
        weights, evidence = self.weights, dict[str, Tensor]()
        paths, odds = None, self._seen_odds(items, seen)
        if self.reasoner is not None and (search or weights.reason > 0):
            known = odds if self.reason_repeats else None
            paths = self._reason(*self._read(items, lengths), lengths, known)
            evidence["reason"] = item_scores(paths, self.catalogue)
        if self.item_path is not None:
            evidence["recognise"] = self.item_path.log_probs(self.item_path.read(items, lengths))
        if self.control is not None:
            evidence["control"] = self.control.log_probs(self.control.read(items, lengths))
        if self.memory is not None:
            evidence["remember"] = log_share(self.memory(items, lengths))
        if odds is not None:
            evidence["repeat"] = odds.table()
        summed = scores = weights.combine(evidence)
        if self.gate is not None:
            # Paths that were looked for although they weigh nothing were not there when the gate was fitted.
            fitted = {name: part for name, part in evidence.items() if name != "reason" or weights.reason > 0}
            scores = self.gate(summed, fitted)
        return Ranking(scores, summed, evidence, paths)

    def predict(self, interaction: Interaction) -> Tensor:
        """The same scores for one item a row, float32 ``[B]``."""
        scores = self.full_sort_predict(interaction)
        return scores.gather(1, interaction[self.ITEM_ID].unsqueeze(1)).squeeze(1)


def _in_one(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {kind: _in_one([part[kind] for part in parts]) for kind in parts[0]}
