import math
import random
from types import SimpleNamespace

import pytest
import torch
from recbole.evaluator import Evaluator

from recbole_reg4rec.config import Reg4RecConfig
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.trainer.collector import RankCollector, target_ranks

RANKING = ["Recall", "NDCG", "MRR", "Hit", "Precision", "MAP"]
DEPTHS = [1, 2, 3, 5, 10]


@pytest.fixture(autouse=True, scope="module")
def numpy_aliases():
    """RecBole's metrics need the names that its configuration gives numpy."""
    Reg4RecConfig.compatibility_settings(object.__new__(Reg4RecConfig))


def settings(metrics=RANKING, topk=DEPTHS):
    return {
        "metrics": list(metrics),
        "topk": list(topk),
        "eval_args": {"mode": {"valid": "full", "test": "full"}},
        "device": torch.device("cpu"),
        "metric_decimal_place": 10,
        "ITEM_ID_FIELD": "item_id",
        "USER_ID_FIELD": "user_id",
        "tail_ratio": 0.2,
    }


def evaluate(scores, targets, config, batch=None, train=None):
    """RecBole's metrics by way of our collector, and the ranks."""
    collector = RankCollector(config)
    if train is not None:
        collector.data_collect(train)
    for rows in torch.arange(len(scores)).split(batch or len(scores)):
        collector.eval_batch_collect(scores[rows], None, torch.arange(len(rows)), targets[rows])
    ranks = collector.take_ranks()
    return dict(Evaluator(config).evaluate(collector.get_data_struct())), ranks


def plain_rank(row, target):
    """Place of the target from 1 on, behind all that score as high; None where it is excluded."""
    if row[target] == -math.inf:
        return None
    return 1 + sum(1 for item, score in enumerate(row) if item != target and score >= row[target])


def plain_metrics(scores, targets, depths=DEPTHS):
    ranks = [plain_rank(row, target) for row, target in zip(scores.tolist(), targets.tolist(), strict=True)]
    result = {}
    for depth in depths:
        places = [rank for rank in ranks if rank is not None and rank <= depth]
        for name in ("recall", "hit"):
            result[f"{name}@{depth}"] = len(places) / len(ranks)
        result[f"precision@{depth}"] = len(places) / len(ranks) / depth
        for name in ("mrr", "map"):
            result[f"{name}@{depth}"] = sum(1 / place for place in places) / len(ranks)
        result[f"ndcg@{depth}"] = sum(1 / math.log2(place + 1) for place in places) / len(ranks)
    return result


def draw(rows=60, items=20, levels=6, seed=0, masked=0.2):
    """Scores of few levels, so that most targets are tied, some -inf; column 0 is excluded as RecBole does."""
    generator = random.Random(seed)
    scores = [[float(generator.randrange(levels)) for _ in range(items + 1)] for _ in range(rows)]
    scores = [[-math.inf if generator.random() < masked else score for score in row] for row in scores]
    for row in scores:
        row[0] = -math.inf
    targets = [generator.randint(1, items) for _ in range(rows)]
    return torch.tensor(scores), torch.tensor(targets)


@pytest.mark.parametrize("levels", [2, 6, 10**9])
def test_metrics_equal_an_independent_implementation(levels):
    scores, targets = draw(levels=levels)
    assert scores.gather(1, targets[:, None]).isneginf().any(), "the case must hold masked targets"
    found, _ = evaluate(scores, targets, settings())
    assert found == pytest.approx(plain_metrics(scores, targets), abs=1e-9)


def test_ties_stand_before_the_target():
    scores = torch.tensor([[-torch.inf, 3.0, 3.0, 3.0, 1.0]])
    for target in (1, 2, 3):
        found, ranks = evaluate(scores, torch.tensor([target]), settings(topk=[2, 3]))
        assert ranks.tolist() == [2] and found["hit@2"] == 0 and found["mrr@3"] == pytest.approx(1 / 3)


def test_a_constant_score_hits_nobody():
    scores = torch.zeros(20, 21)
    scores[:, 0] = -torch.inf
    found, _ = evaluate(scores, torch.arange(1, 21), settings(topk=[1, 19]))
    assert set(found.values()) == {0.0}


@pytest.mark.parametrize("depth", [3, 4, 50])
def test_a_masked_target_is_no_hit_at_any_depth(depth):
    scores = torch.tensor([[-torch.inf, 3.0, 2.0, -torch.inf]])
    found, _ = evaluate(scores, torch.tensor([3]), settings(topk=[depth]))
    assert set(found.values()) == {0.0}
    found, _ = evaluate(scores, torch.tensor([2]), settings(topk=[depth]))
    assert found[f"hit@{depth}"] == 1.0


def test_ranks_are_counted_from_zero_in_row_order_and_taken_once():
    scores = torch.tensor([[-torch.inf, 1.0, 2.0, 3.0], [-torch.inf, 3.0, 2.0, 1.0]])
    collector = RankCollector(settings())
    for row in range(2):
        collector.eval_batch_collect(scores[row : row + 1], None, torch.zeros(1, dtype=torch.int64), torch.tensor([1]))
    assert collector.take_ranks().tolist() == [2, 0]
    assert len(collector.take_ranks()) == 0
    assert target_ranks(scores, torch.tensor([3, 3])).tolist() == [0, 2]


@pytest.mark.parametrize("batch", [1, 7, 59])
def test_the_split_into_batches_changes_nothing(batch):
    scores, targets = draw()
    whole, ranks = evaluate(scores, targets, settings())
    parts, ranks_of_parts = evaluate(scores, targets, settings(), batch=batch)
    assert parts == whole and torch.equal(ranks, ranks_of_parts)


def test_nan_is_a_mistake_that_is_told():
    scores, targets = draw()
    scores[3, 5] = torch.nan
    with pytest.raises(UserError, match="NaN"):
        evaluate(scores, targets, settings())


def counts():
    dataset = SimpleNamespace(num=lambda field: 21, item_counter={item: item for item in range(1, 21)})
    return SimpleNamespace(dataset=dataset)


LISTS = ["ItemCoverage", "AveragePopularity", "GiniIndex", "ShannonEntropy", "TailPercentage"]


def test_metrics_of_recommended_items_work_beside_ranks():
    scores = torch.full((2, 21), -100.0)
    scores[0, [1, 2]] = torch.tensor([9.0, 8.0])
    scores[1, [2, 3]] = torch.tensor([9.0, 8.0])
    targets = torch.tensor([1, 3])
    found, _ = evaluate(scores, targets, settings([*LISTS, "Hit"], [2]), train=counts())
    assert found["hit@2"] == 1.0
    assert found["itemcoverage@2"] == pytest.approx(3 / 21)  # RecBole counts the padding item in
    assert found["averagepopularity@2"] == pytest.approx((1 + 2 + 2 + 3) / 4)
    shares = [1 / 4, 2 / 4, 1 / 4]
    assert found["shannonentropy@2"] == pytest.approx(-sum(p * math.log(p) for p in shares) / 3, rel=1e-6)
    # Four least popular items make the tail (a fifth of twenty): 1, 2 and 3 are among them.
    assert found["tailpercentage@2"] == pytest.approx(1.0)
    assert 0 < found["giniindex@2"] < 1
    # What was counted in training serves every later evaluation too.
    collector = RankCollector(settings(LISTS, [2]))
    collector.data_collect(counts())
    for _ in range(2):
        collector.eval_batch_collect(scores, None, torch.arange(2), targets)
        assert collector.get_data_struct().get("data.num_items") == 21
    without, ranks = evaluate(scores, targets, settings(LISTS, [2]), train=counts())
    assert len(ranks) == 0 and without == {name: value for name, value in found.items() if name != "hit@2"}


def test_lists_longer_than_the_catalogue_are_refused():
    scores, targets = draw(items=20)
    assert evaluate(scores, targets, settings(topk=[21]))[0]
    with pytest.raises(UserError, match="topk"):
        evaluate(scores, targets, settings([*LISTS, "Hit"], [21]), train=counts())
