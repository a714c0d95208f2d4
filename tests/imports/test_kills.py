"""An import that is killed ends as if it had not been."""

from tests.bench.bulk_kills import kill_again_and_again


def test_a_killed_import_ends_with_the_gallery_and_the_report_of_an_undisturbed_one():
    outcome = kill_again_and_again(3, persons=8, seed=1)
    assert (outcome.kills, outcome.photos) == (3, 85)
    assert set(outcome.figures().values()) == {0}, outcome
