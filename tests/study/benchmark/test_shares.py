import pytest
import torch

from recbole_reg4rec.study.benchmark.shares import profile, shares


@pytest.mark.parametrize("corp", [False, True])
@pytest.mark.parametrize("kind", ["catalogue", "codebook"])
def test_parts_of_decoding(toy_data, corp, kind):
    toy = toy_data(codebooks=3, corp=corp, token_softmax=kind, memory=True, item_path=True)
    batch, model = next(iter(toy.data.test))[0], toy.model.eval()
    with torch.no_grad():
        seconds = profile(lambda: model.full_sort_predict(batch))
    assert seconds["catalogue"] == pytest.approx(seconds["open"] + seconds["narrow"] + seconds["feasible"])
    assert min(seconds[part] for part in ("open", "token head", "encoders", "memory", "item path")) > 0
    assert (seconds["feasible"] > 0) is (kind == "codebook"), "the other reads what is left from the items"
    assert seconds["catalogue"] + seconds["decoder"] + seconds["token head"] < seconds["search"]
    assert seconds["search"] + seconds["memory"] + seconds["item path"] < seconds["decoding"]
    assert (seconds["corp"] > 0) is corp and seconds["repeat"] == 0
    found = shares(seconds)
    assert found["catalogue of search"] == seconds["catalogue"] / seconds["search"] > found["catalogue"] > 0


def test_nothing_decoded():
    assert shares(profile(lambda: None)) == {}
