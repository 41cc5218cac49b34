import optuna
import pytest

from recbole_reg4rec.errors import UserError
from recbole_reg4rec.study.tuning.spaces import Condition, Parameter, Space, encoded, same

DROPOUT = Parameter("dropout", "float", 0.0, 0.5, step=0.1)
LAYERS = Parameter("layers", "int", 2.0, 6.0, step=2)
RATE = Parameter("rate", "float", 1e-4, 1e-1, log=True)
MEMORY = Parameter("memory", "choice", choices=(True, False))
WINDOW = Parameter("window", "int", 1.0, 3.0, when=(Condition("memory", (True,)),))


def study(seed=0):
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def test_grids_and_curves():
    assert DROPOUT.grid() == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert LAYERS.grid() == LAYERS.curve() == [2, 4, 6] and all(isinstance(n, int) for n in LAYERS.grid())
    assert MEMORY.grid() == [True, False]
    assert RATE.grid() is None and Parameter("x", "float", 0.0, 1.0).grid() is None
    assert RATE.curve() == [0.0001, 0.0003162, 0.001, 0.003162, 0.01, 0.03162, 0.1]
    assert Parameter("x", "int", 1.0, 4.0, log=True).curve() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("parameter", "inside", "outside"),
    [
        (DROPOUT, [0, 0.3, 0.5], [0.25, 0.6, -0.1, "0.3", True, None]),
        (LAYERS, [2, 6, 4.0], [3, 8, 2.5, True]),
        (RATE, [1e-4, 0.05, 1e-1], [1e-5, 1.0]),
        (MEMORY, [True, False], [1, 0, "True", None]),
        (Parameter("size", "choice", choices=("auto", 64, [1, 2])), ["auto", 64, [1, 2]], [32, "64", [1]]),
    ],
)
def test_contains(parameter, inside, outside):
    assert all(parameter.contains(value) for value in inside)
    assert not any(parameter.contains(value) for value in outside)


def test_true_is_not_one():
    assert not same(True, 1) and not same(0, False) and same(1, 1.0) and same("a", "a")
    assert encoded([1, 2]) == "[1, 2]" and encoded("auto") == "auto" and encoded(None) is None


def test_conditions():
    assert Condition("memory", (True,)).holds({"memory": True})
    assert not Condition("memory", (True,)).holds({"memory": 1}) and not Condition("memory", (True,)).holds({})
    bounded = Condition("layers", compare=((">=", 2), ("<", 4)))
    assert [value for value in range(6) if bounded.holds({"layers": value})] == [2, 3]
    assert not bounded.holds({"layers": "auto"}) and not bounded.holds({"layers": True})


def test_suggestions_stay_inside_and_obey_conditions():
    lists = Parameter("sizes", "choice", choices=([64, 64], [128], None))
    space = Space((DROPOUT, LAYERS, RATE, lists, MEMORY, WINDOW))
    seen, optimiser = set(), study()
    for _ in range(60):
        values = space.suggest(optimiser.ask(), {"memory": True})
        assert all(space.named(name).contains(value) for name, value in values.items())
        assert ("window" in values) == values["memory"]
        seen.add((values["memory"], str(values["sizes"])))
    assert len(seen) == 6, "both switches with all three lists, lists as lists"


def test_a_condition_on_a_setting_that_is_not_searched_reads_its_value():
    space = Space((WINDOW,))
    assert space.suggest(study().ask(), {"memory": True}).keys() == {"window"}
    assert space.suggest(study().ask(), {"memory": False}) == {}


def test_the_default_trial_has_the_defaults_to_the_last_bit_even_outside_the_space():
    space = Space((DROPOUT, RATE, LAYERS, MEMORY, WINDOW))
    base = {"dropout": 0.25, "rate": 0.0123456789, "layers": 4, "memory": True, "window": 9}
    assert space.default(base) == {"rate": 0.0123456789, "layers": 4, "memory": True}
    optimiser = study()
    optimiser.enqueue_trial(space.default(base))
    assert space.suggest(optimiser.ask(), base, defaults=True) == space.default(base)


def test_a_grid_has_every_combination_once():
    space = Space((MEMORY, WINDOW, LAYERS))
    found = space.grid({})
    assert len(found) == 3 * 3 + 3
    assert {"memory": False, "layers": 2} in found and {"memory": True, "window": 3, "layers": 6} in found
    with pytest.raises(UserError, match="rate.*without steps"):
        Space((RATE,)).grid({})
    with pytest.raises(UserError, match="combinations"):
        Space(tuple(Parameter(f"x{n}", "int", 1.0, 100.0) for n in range(3))).grid({})


def test_what_the_user_gives_is_neither_searched_nor_fixed():
    space = Space((DROPOUT, LAYERS), {"epochs": 3, "seed": 1}).without({"dropout", "seed"})
    assert [p.name for p in space.parameters] == ["layers"] and space.fixed == {"epochs": 3}
