import torch
from recbole.data.dataloader import FullSortEvalDataLoader

from recbole_reg4rec.data.sequences import TARGETS
from recbole_reg4rec.study.benchmark.slices import Batches, TestSlice, TrainingSlice


def test_a_slice_goes_on_where_the_last_one_stopped(toy_data):
    toy = toy_data(train_batch_size=14)
    loader, begun = toy.data.train, []
    batches = Batches(loader, lambda epoch: (begun.append(epoch), loader.set_epoch(epoch)))
    first = TrainingSlice(batches, 0.0)
    (batch,) = list(first)
    assert first.batches == 1 and first.count == int((batch[TARGETS] > 0).sum()) > 0
    assert len(first) == len(loader) > 1
    rest = TrainingSlice(batches, 0.0)
    rows = [batch]
    for _ in range(len(loader) - 1):
        rows += list(TrainingSlice(batches, 0.0))
    assert sum(int((row[TARGETS] > 0).sum()) for row in rows) == loader.targets and begun == [0]
    list(rest)
    assert begun == [0, 1]


def test_a_long_slice_has_more_than_an_epoch(toy_data):
    toy = toy_data()
    part = TrainingSlice(Batches(toy.data.train), 0.1)
    assert sum(1 for _ in part) == part.batches > len(toy.data.train)


def test_a_slice_of_a_test_part_is_a_loader_of_recboles_kind(toy_data):
    toy = toy_data(eval_batch_size=2)
    part = TestSlice(Batches(toy.data.test), 0.0)
    assert isinstance(part, FullSortEvalDataLoader) and part._dataset is toy.data.test._dataset
    (batch,) = list(part)
    assert part.count == len(batch[0]) == 2
    again = next(iter(TestSlice(Batches(toy.data.test), 0.0)))
    assert torch.equal(again[3], batch[3]), "the loader that was handed in is as it was"


def test_rows_are_targets_where_prefixes_are_trained(toy_data):
    toy = toy_data(model="SASRec", train_batch_size=4)
    part = TrainingSlice(Batches(toy.data.train), 0.0)
    assert len(next(iter(part))) == part.count == 4
