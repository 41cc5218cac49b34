import pytest

from recbole_reg4rec.study.benchmark.goals import Goal, goals_on, growth, growth_goals
from recbole_reg4rec.study.benchmark.tables import goal_table


def found(*speeds, profiles=None, memory=150.0):
    """``speeds``: contender, part, and a rate a repeat."""
    return {
        "contenders": {name: {"settings": {"beam_width": 20}, "libraries_mb": 50.0} for name, _, _ in speeds},
        "slices": [
            {
                "contender": name,
                "part": part,
                "repeat": number,
                "count": 2 * rate,
                "seconds": 2.0,
                "peak_memory_mb": memory,
            }
            for name, part, rates in speeds
            for number, rate in enumerate(rates, start=1)
        ],
        "profiles": profiles or {},
    }


def only(goals, text):
    (goal,) = [goal for goal in goals if text in goal.what]
    return goal


def test_ratios_are_taken_within_a_repeat():
    goals = goals_on("d", found(("SASRec", "train", [10, 20, 40]), ("SASRecWhole", "train", [250, 300, 800])))
    (goal,) = goals
    assert (goal.value, goal.low, goal.high, goal.met) == (20.0, 15.0, 25.0, True)
    assert goal.verdict == "met, 0% better"


def test_missed_and_met_both_ways():
    measured = found(
        ("SASRec", "train", [100]),
        ("REG4Rec", "train", [600]),
        ("REG4Rec:paper-aligned", "train", [300]),
        ("SASRecWhole", "evaluate", [2500]),
        ("SASRec", "evaluate", [1000]),
        ("REG4Rec:corp", "evaluate", [200]),
        ("REG4Rec:paper-corp", "evaluate", [500]),
        ("TIGER", "evaluate", [20]),
        profiles={
            "REG4Rec:corp": {
                "parts": dict.fromkeys(("open", "narrow", "feasible", "corp"), 0.0)
                | {"decoding": 2.0, "search": 1.0, "catalogue": 0.15}
            },
        },
    )
    goals = goals_on("d", measured)
    assert only(goals, "stage 1").verdict == "missed by 25%"
    assert only(goals, "stage 2").verdict == "met, 50% better"
    assert only(goals, "a user, REG4Rec:corp, against SASRec").verdict == "missed by 25%"
    assert only(goals, "a user, REG4Rec:paper-corp, against SASRec").verdict == "met, 50% better"
    assert only(goals, "REG4Rec:corp, beam width 20, against TIGER, beam width 20").verdict == "missed by 50%"
    assert only(goals, "REG4Rec:paper-corp, beam width 20").met
    share = only(goals, "catalogue constraint")
    assert (share.value, share.unit, share.met) == (pytest.approx(15.0), "%", False)
    assert len(goals) == 7


def test_nothing_to_judge():
    assert goals_on("d", found(("RPG", "train", [1]))) == []


def test_growth_of_time_and_of_memory_beyond_the_libraries():
    scale = {
        items: found(("REG4Rec", "train", [1e6 / items]), ("REG4Rec", "evaluate", [1e3 * items**-0.25]), memory=memory)
        for items, memory in ((10_000, 150.0), (1_000_000, 1050.0))
    }
    exponents = growth(scale)
    assert exponents["REG4Rec"]["seconds a target"] == pytest.approx(1.0)
    assert exponents["REG4Rec"]["seconds a user"] == pytest.approx(0.25)
    assert exponents["REG4Rec"]["memory training"] == pytest.approx(0.5)
    training, goal, memory = growth_goals(exponents)
    assert goal.met and goal.verdict == "met, 50% better"
    assert (training.met, memory.met) == (False, True)
    assert not growth_goals({"REG4Rec": {"seconds a user": 0.6}})[0].met
    assert growth_goals({"REG4Rec": {"seconds a user": None}}) == []


def test_what_grows_in_training_and_what_a_million_items_take():
    exponents = {"REG4Rec:paper": {"seconds a target": 0.3, "seconds a user": None, "memory training": 1.2}}
    scale = {1_000_000: found(("REG4Rec:paper", "train", [5]), memory=9 * 1024.0), 100: found()}
    time, memory, peak = growth_goals(exponents, scale)
    assert ("train a target" in time.what, time.met) == (True, True)
    assert ("memory of training" in memory.what, memory.met) == (True, False)
    assert (peak.value, peak.bound, peak.met) == (9.0, 8.0, False)


def test_memory_is_judged_where_there_is_a_goal_for_it():
    measured = found(("REG4Rec", "train", [5]), ("REG4Rec", "evaluate", [5]), memory=1024.0)
    goal = only(goals_on("ml-100k", measured), "peak memory")
    assert (goal.value, goal.bound, goal.met) == (1.0, 1.5, True)
    assert not [goal for goal in goals_on("other", measured) if "memory" in goal.what]


def test_the_table_says_what_was_wanted_and_what_came():
    speed = Goal("d", "speed", 20.0, False, 15.0, 14.0, 16.0)
    text = goal_table([speed, Goal("d", "share", 10.0, True, 4.0, 4.0, 4.0, "%")])
    assert "| d | speed | at least 20x | **15x** (14 to 16) | missed by 25% |" in text
    assert "| d | share | at most 10% | **4%** | met, 60% better |" in text
