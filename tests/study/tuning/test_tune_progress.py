import optuna
import pytest
from optuna.trial import TrialState, create_trial

from recbole_reg4rec.study.tuning import progress as module
from recbole_reg4rec.study.tuning.slots import DEFAULT, FAILURE, SLOT, slots
from recbole_reg4rec.study.tuning.trials import COST, SETTINGS


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(module.time, "time", lambda: now[0])
    return now


def test_best_pruned_failed_and_time_left(plan, capsys, clock):
    made = plan(trials=5)
    study = optuna.create_study(direction="maximize")

    def end(state, **marks):
        value = marks.pop("value", None)
        slot = len(study.get_trials())
        steps = {0: 0.1, 1: 0.2} if state == TrialState.PRUNED else {}
        study.add_trial(
            create_trial(state=state, value=value, intermediate_values=steps, user_attrs={SLOT: slot, **marks})
        )

    show = module.Progress(made, bar=False)

    def printed():
        show(slots(study.get_trials(), made.trials))
        return capsys.readouterr().out

    end(TrialState.COMPLETE, value=0.5)
    assert printed() == "1 of 5 trials are there already; going on\n"
    clock[0] += 60
    cost = {"epochs": 7, "train_seconds": 58.0}
    end(TrialState.COMPLETE, value=0.25, **{DEFAULT: True, SETTINGS: {"rate": 0.123456, "form": "flat"}, COST: cost})
    line = printed()
    assert line == (
        "trial 1 (default settings): NDCG@10 0.2500, 7 epochs, 58.0 s; best 0.5000, 0:03:00 left\n"
        "    rate=0.1235 form=flat\n"
    )
    clock[0] += 60
    assert printed() == "" and show._left(slots(study.get_trials(), 5)) == "0:02:00 left", "it runs down"
    end(TrialState.PRUNED)
    end(TrialState.FAIL, **{FAILURE: "no memory"})
    line = printed()
    assert "trial 2: pruned after 2 validations" in line and "trial 3: failed: no memory" in line
    assert line.count("0:00:40 left") == 2
    assert "1 pruned, 1 failed" in show._bar.postfix
    show.close()


def test_a_deadline_bounds_the_time_left(plan, clock):
    made = plan(trials=9)
    show = module.Progress(made, bar=False, deadline=1100.0)
    show(slots([], 9))
    clock[0] += 90
    ended = create_trial(value=0.1, user_attrs={SLOT: 0})
    assert show._left(slots([ended], 9)) == "0:00:10 left"
