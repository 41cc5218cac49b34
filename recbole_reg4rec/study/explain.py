"""Why a trained REG4Rec recommends what it does: paths, meanings of tokens, other evidence, and what CORP dropped."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from recbole_reg4rec.data.sequences import training_sequences
from recbole_reg4rec.decoding.corp import PrunedStep
from recbole_reg4rec.decoding.scoring import led_to
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.model.reg4rec import Ranking, REG4Rec
from recbole_reg4rec.model.trace import trace_paths
from recbole_reg4rec.study.explanation import Evidence, Explanation, ItemExplanation, PrunedPath, Step
from recbole_reg4rec.study.gloss import Glossary
from recbole_reg4rec.study.trained import TrainedModel, load_trained


class Explainer:
    """Explains as often as asked; everything is loaded once.

    Args:
        trained: a REG4Rec, see `study.trained.load_trained`; or use `load`.
    """

    def __init__(self, trained: TrainedModel) -> None:
        if not isinstance(trained.model, REG4Rec) or trained.tokens is None:
            raise UserError(f"model {trained.config['model']} reasons over no tokens; only REG4Rec can be explained")
        self.trained, self.model = trained, trained.model
        self._test = trained.data.test._dataset
        self._masks = bool(trained.config["mask_history"])
        train = trained.data.train._dataset
        tokens = trained.tokens
        self.glossary = Glossary(
            trained.config, train, training_sequences(train), tokens.codes.codes, tokens.categories
        )
        users = self._test.inter_feat[self._test.uid_field].numpy()
        self._row_of_user = {int(user): row for row, user in enumerate(users)}

    @classmethod
    def load(
        cls,
        dataset: str,
        checkpoint: str | None = None,
        config_file_list: list[str] | None = None,
        config_dict: Mapping[str, Any] | None = None,
        command_line: Mapping[str, str] | None = None,
    ) -> Explainer:
        """Loads a trained REG4Rec; arguments and errors are those of `study.trained.load_trained`."""
        return cls(load_trained(dataset, checkpoint, "REG4Rec", config_file_list, config_dict, command_line))

    @property
    def test_users(self) -> list[str]:
        """Ids of the users of the test set."""
        names = self._test.field2id_token[self._test.uid_field]
        return [str(names[user]) for user in self._row_of_user]

    def users(self, users: Sequence[str], top: int = 10) -> list[Explanation]:
        """Explains the ``top`` best items of users of the test set, by their ids.

        Raises:
            UserError: the data have no such user, or nothing of the user is in the test set.
        """
        numbers = [self._number(user, self._test.uid_field, "user") for user in users]
        for user, number in zip(users, numbers, strict=True):
            if number not in self._row_of_user:
                raise UserError(
                    f"user '{user}' of {self._test.dataset_name} has too few interactions to be in the test set; "
                    "name another, or give a history by --items"
                )
        if not numbers:
            return []
        rows = self._test[torch.tensor([self._row_of_user[number] for number in numbers])]
        owners, seen = self._test.seen_items(rows)
        histories = [seen[owners == row] for row in range(len(numbers))]
        inputs, lengths = rows[self.model.ITEM_SEQ], rows[self.model.ITEM_SEQ_LEN]
        targets = rows[self._test.iid_field].tolist()
        return self._explain(inputs, lengths, histories, [str(user) for user in users], targets, top)

    def items(self, items: Sequence[str], top: int = 10) -> Explanation:
        """Explains the ``top`` best items for a history given by hand, ids from the oldest to the newest.

        Raises:
            UserError: the data have no such item, or the history is empty.
        """
        if not items:
            raise UserError("the history is empty; name at least one item")
        numbers = torch.tensor([self._number(item, self._test.iid_field, "item") for item in items])
        inputs = numbers[-self.model.max_seq_length :]
        return self._explain(inputs.unsqueeze(0), torch.tensor([len(inputs)]), [numbers], [None], [None], top)[0]

    def _number(self, name: str, field: str, kind: str) -> int:
        number = self._test.field2token_id[field].get(str(name), 0)
        if number:
            return int(number)
        names = [str(other) for other in self._test.field2id_token[field][1:]]
        near = difflib.get_close_matches(str(name), names, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"ids look like '{names[0]}'"
        raise UserError(f"data set {self._test.dataset_name} has no {kind} '{name}'; {hint}")

    @torch.no_grad()
    def _explain(
        self,
        inputs: Tensor,
        lengths: Tensor,
        histories: list[Tensor],
        users: Sequence[str | None],
        targets: Sequence[int | None],
        top: int,
    ) -> list[Explanation]:
        device = self.model.device
        batch = Interaction({self.model.ITEM_SEQ: inputs, self.model.ITEM_SEQ_LEN: lengths}).to(device)
        seen = pad_sequence(histories, batch_first=True).to(device)
        # Paths are shown also where the weights chosen on validation leave them out of the score.
        ranking = self.model.rank(batch[self.model.ITEM_SEQ], batch[self.model.ITEM_SEQ_LEN], seen, search=True)
        out = []
        for row, (user, history, target) in enumerate(zip(users, histories, targets, strict=True)):
            read = inputs[row, : int(lengths[row])].to(device)
            view = _Row(self, ranking, row, read, history.to(device), target)
            best = view.order[: max(0, min(top, len(self.glossary.codes) - 1))].tolist()
            explained = view.explain([item for item in best if np.isfinite(view.ranked[item])])
            out.append(
                Explanation(
                    user=user,
                    history=tuple(self.glossary.item_id(item) for item in read.tolist()),
                    top=tuple(explained),
                    target=view.explain([target])[0] if target is not None else None,
                    pruned=tuple(view.pruned()),
                )
            )
        return out


class _Row:
    """One user's part of a ranking."""

    def __init__(
        self, explainer: Explainer, ranking: Ranking, row: int, read: Tensor, seen: Tensor, target: int | None
    ) -> None:
        self._model, self._glossary = explainer.model, explainer.glossary
        self._ranking, self._row, self._read, self._target = ranking, row, read, target
        self._history, self._seen = seen, set(seen.tolist())
        self.scores = ranking.scores[row].cpu().numpy()
        self.ranked = self.scores.copy()
        self.ranked[0] = -np.inf
        if explainer._masks:
            self.ranked[list(self._seen)] = -np.inf
        self.order = np.argsort(-self.ranked, kind="stable")

    def explain(self, items: list[int]) -> list[ItemExplanation]:
        """Items by their numbers; of several paths to one, the best is shown."""
        best, counts = self._paths_to(items)
        chosen = [path for path in best if path is not None]
        steps = iter(self._steps_of(chosen, [item for item, path in zip(items, best, strict=True) if path is not None]))
        paths = self._ranking.paths
        explained = []
        for item, path, count in zip(items, best, counts, strict=True):
            log_probability = None
            if paths is not None and path is not None:
                log_probability = float(paths.scores[self._row, path]) + self._answer(path, item)
            explained.append(
                ItemExplanation(
                    item=self._glossary.item_id(item),
                    title=self._glossary.title(item),
                    rank=min(int((self.ranked >= self.ranked[item]).sum()), len(self.ranked) - 1),
                    score=float(self.scores[item]),
                    seen=item in self._seen,
                    evidence=tuple(self._evidence(item)),
                    path_log_probability=log_probability,
                    paths=count,
                    steps=next(steps) if path is not None else (),
                )
            )
        return explained

    def pruned(self) -> list[PrunedPath]:
        """What CORP dropped, the most probable first."""
        checks = self._ranking.paths.checks if self._ranking.paths is not None else ()
        found = [path for check in checks for path in self._pruned_at(check)]
        return sorted(found, key=lambda path: -path.log_probability)

    def _evidence(self, item: int) -> list[Evidence]:
        out = []
        for name, scores in self._ranking.evidence.items():
            weight, score = float(getattr(self._model.weights, name)), float(scores[self._row, item])
            out.append(Evidence(name, score, weight, weight * score))
        if self._model.gate is not None and bool(self._model.gate.fitted):
            moved = float(self._ranking.scores[self._row, item] - self._ranking.summed[self._row, item])
            out.append(Evidence("gate", moved, 1.0, moved))
        return out

    def _paths_to(self, items: list[int]) -> tuple[list[int | None], list[int]]:
        """The best path to each item, by its number in the beam, and how many there are."""
        paths = self._ranking.paths
        if paths is None:
            return [None] * len(items), [0] * len(items)
        alive = paths.scores[self._row].isfinite()
        led = led_to(paths, self._model.catalogue.items)[self._row]
        best: list[int | None] = []
        counts = []
        for item in items:
            leads = torch.nonzero((paths.items[self._row] == item).any(-1) & alive & led[item]).flatten().tolist()
            best.append(max(leads, key=lambda path: float(paths.scores[self._row, path])) if leads else None)
            counts.append(len(leads))
        return best, counts

    def _steps_of(self, numbers: list[int], items: list[int]) -> list[tuple[Step, ...]]:
        """Steps of whole paths. What a search over all tokens left, because one item did, follows in any order.

        Where a path may end before, its last step is the one that decided among the items that were left.
        """
        paths = self._ranking.paths
        if paths is None or not numbers:
            return []
        books, tokens = paths.books[self._row, numbers], paths.tokens[self._row, numbers]
        if paths.prior is not None and books.shape[1] < self._model.catalogue.codebooks:
            traced = [steps for steps, _ in self._follow(books, tokens)]
            ends = zip(traced, numbers, items, strict=True)
            return [(*steps[:-1], self._decision(steps[-1], number, item)) for steps, number, item in ends]
        codes = self._model.catalogue.codes[torch.tensor(items, device=books.device)]
        closed = torch.zeros_like(codes).scatter(1, books, 1)
        rest = closed.argsort(dim=1, stable=True)[:, : codes.shape[1] - books.shape[1]]
        books, tokens = torch.cat([books, rest], dim=1), torch.cat([tokens, codes.gather(1, rest)], dim=1)
        return [steps for steps, _ in self._follow(books, tokens)]

    def _answer(self, path: int, item: int) -> float:
        """Log-probability of an item given a path to it, 0 where the path spells it."""
        paths = self._ranking.paths
        if paths is None or paths.answers is None:
            return 0.0
        place = paths.items[self._row, path].tolist().index(item)
        return float(paths.answers[self._row, path, place])

    def _decision(self, step: Step, path: int, item: int) -> Step:
        """The step at which a path decided among the items that were left."""
        assert self._ranking.paths is not None
        left = int((self._ranking.paths.items[self._row, path] > 0).sum())
        meaning = "the one item left" if left == 1 else f"of {left} items left, at once"
        return replace(step, probability=math.exp(self._answer(path, item)), meaning=meaning)

    def _pruned_at(self, check: PrunedStep) -> list[PrunedPath]:
        numbers = torch.nonzero(check.pruned[self._row]).flatten()
        if not len(numbers):
            return []
        assert self._model.corp is not None
        traced = self._follow(check.books[self._row, numbers], check.tokens[self._row, numbers])
        out = []
        for number, (steps, before) in zip(numbers.tolist(), traced, strict=True):
            items = [item for item in check.candidates[self._row, number].tolist() if item > 0]
            out.append(
                PrunedPath(
                    step=check.step,
                    agreement=float(check.agreement[self._row, number]),
                    threshold=self._model.corp.threshold,
                    before=before,
                    now=steps[-1].category,
                    log_probability=float(check.scores[self._row, number]),
                    items=len(items),
                    examples=tuple(self._glossary.item_id(item) for item in items[:3]),
                    held_target=self._target in items if self._target is not None else None,
                    steps=steps,
                )
            )
        return out

    def _follow(self, books: Tensor, tokens: Tensor) -> list[tuple[tuple[Step, ...], str]]:
        """Steps of paths ``[R, S]``, and the category that the steps before the last one held most likely."""
        trace = trace_paths(self._model, self._read, books, tokens, self._history)
        columns = (trace.probabilities, trace.categories, trace.category_probabilities, trace.agreements)
        length = books.shape[1]
        out = []
        for path, (chances, kinds, kind_chances, agreed) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True)
        ):
            steps = []
            for number in range(len(kinds)):
                book = int(books[path, number]) if number < length else None
                token = int(tokens[path, number]) if number < length else None
                meaning = self._glossary.gloss(book, token).text if book is not None and token is not None else ""
                steps.append(
                    Step(
                        number=number + 1,
                        codebook=book,
                        token=token,
                        probability=chances[number] if book is not None else None,
                        category=self._glossary.category(kinds[number]),
                        category_probability=kind_chances[number],
                        agreement=agreed[number] if number else None,
                        meaning=meaning,
                    )
                )
            out.append((tuple(steps), self._glossary.category(int(trace.before[path, -1]))))
        return out
