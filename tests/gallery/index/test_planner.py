import pytest

from service.gallery.index.planner import ENOUGH, Costs


def test_rows_are_passed_over_as_long_as_that_is_cheaper_than_masking_them_out():
    """A million rows: masking takes a millisecond more, and a row that is passed over ten microseconds."""
    costs = Costs({"direct": 4e-7, "full": 6e-9, "filtered": 7e-9, "passed": 1e-5})
    assert costs.past(99, 1_000_000) == "passed"
    assert costs.past(101, 1_000_000) == "filtered"
    assert costs.past(99, 900_000) == "filtered"
    costs.seconds["passed"] = 1e-6
    assert costs.past(999, 1_000_000) == "passed"
    assert costs.past(1001, 1_000_000) == "filtered"


def test_where_masking_was_measured_to_be_cheaper_everybody_is_masked_out():
    costs = Costs({"direct": 1e-7, "filtered": 5e-9, "full": 6e-9, "passed": 1e-9})
    assert costs.past(1, 1_000_000) == "filtered"


def test_what_is_measured_tells_how_many_candidates_cost_as_much_as_everybody():
    costs = Costs({"direct": 4e-7, "full": 1e-7})
    assert costs.scan_share == pytest.approx(0.25)
    for _ in range(100):
        costs.learn("full", 0.06, 10_000_000)
        costs.learn("direct", 0.001, 5_000)
    assert costs.scan_share == pytest.approx(0.03, rel=0.01)


def test_a_handful_tells_of_what_a_call_costs_and_not_a_row():
    costs = Costs()
    costs.learn("direct", 1e-6 * ENOUGH, ENOUGH - 1)
    assert costs == Costs()
    costs.learn("direct", 1e-6 * ENOUGH, ENOUGH)
    assert costs != Costs()


def test_one_search_that_waited_for_others_is_no_measure():
    costs = Costs()
    before = costs.seconds["full"]
    costs.learn("full", 60.0, 1)
    assert costs.seconds["full"] < 1.5 * before


def test_a_search_over_nobody_teaches_nothing():
    costs = Costs()
    costs.learn("full", 1.0, 0)
    assert costs == Costs()
