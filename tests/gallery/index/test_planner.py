import pytest

from service.gallery.index.planner import FEW, Costs


def test_few_rows_are_scored_and_many_are_looked_for():
    costs = Costs()
    assert costs.choose(1_000, 10_000_000) == "direct"
    assert costs.choose(2_000_000, 10_000_000) == "filtered"


def test_nearly_everybody_is_everybody():
    costs = Costs({"direct": 1e-6, "filtered": 5e-9, "full": 4e-9})
    assert costs.choose(10_000_000 - FEW, 10_000_000) == "full"
    assert costs.choose(10_000_000 - FEW - 1, 10_000_000) == "filtered"


def test_what_is_measured_moves_the_border():
    costs = Costs()
    border = 100_000
    assert costs.choose(border, 10_000_000) == "direct"
    for _ in range(100):
        costs.learn("direct", 1.0, 1_000_000)
    assert costs.seconds["direct"] == pytest.approx(1e-6, rel=0.01)
    assert costs.choose(border, 10_000_000) == "filtered"


def test_one_search_that_waited_for_others_is_no_measure():
    costs = Costs()
    before = costs.seconds["direct"]
    costs.learn("direct", 60.0, 1)
    assert costs.seconds["direct"] < 1.5 * before


def test_a_search_over_nobody_teaches_nothing():
    costs = Costs()
    costs.learn("direct", 1.0, 0)
    assert costs == Costs()
