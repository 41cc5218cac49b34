import pytest
from recbole.model.sequential_recommender import SASRec

from recbole_reg4rec.errors import UserError
from recbole_reg4rec.study.registry import find_model


def test_ours_come_first_then_recboles():
    assert find_model("REG4Rec").__module__ == "recbole_reg4rec.model.reg4rec"
    assert issubclass(find_model("SASRecWhole"), SASRec)
    assert find_model("SASRec") is SASRec


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("SASREC", "SASRec"), ("sasrec", "SASRec"), ("GRU4", "GRU4Rec"), ("Reg4Rec", "REG4Rec"), ("Bert4Rec", "BERT4Rec")],
)
def test_an_unknown_name_gets_the_nearest(name, nearest):
    with pytest.raises(UserError, match=f"--model={name}.*did you mean.*{nearest}"):
        find_model(name)


def test_a_name_near_nothing_gets_the_list():
    with pytest.raises(UserError, match="known are .*GRU4Rec.*REG4Rec.*SASRec"):
        find_model("qqqqqq")


@pytest.mark.parametrize("name", ["BPR", "torch", "SequentialRecommender", "__doc__", "sasrecwhole ", ""])
def test_what_is_no_sequential_model_is_refused(name):
    with pytest.raises(UserError):
        find_model(name)


@pytest.mark.parametrize("name", ["DIEN", "GRU4RecKG", "KSR"])
def test_models_with_data_sets_of_their_own_are_refused(name):
    with pytest.raises(UserError, match=f"--model={name} needs a data set class of its own"):
        find_model(name)
