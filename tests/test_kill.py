"""Nothing that was acknowledged is lost, and nothing is half there, when the service is killed."""

from tests.bench.kill import kill_again_and_again


def test_acknowledged_faces_survive_kills_whole_and_repeated_requests_get_their_first_answer(tmp_path, monkeypatch):
    monkeypatch.setenv("VULTUS_ENGINE", "onnxruntime")
    outcome = kill_again_and_again(tmp_path, 4)
    assert outcome.acknowledged > 0
    assert (outcome.lost, outcome.half, outcome.answered_differently, outcome.not_identified) == (0, 0, 0, 0)
