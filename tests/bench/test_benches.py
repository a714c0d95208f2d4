"""What every bench promises: a machine without the data set is told so, and the figures' arithmetic is right."""

import json
import subprocess
import sys

import numpy as np
import pytest

from service.identify.planner import Rule, look
from tests.bench.backup import GROUP, measure
from tests.bench.bulk import still_running
from tests.bench.crowd import BLOCK, STRATA, crowd_of, probes_of, stratum_of
from tests.bench.lfw import accuracy_of_fold, all_pairs, open_set
from tests.bench.priors_reliability import Looks, Told, deciles
from tests.bench.priors_scores import Scorer, scale
from tests.bench.priors_strangers import Strangers
from tests.bench.priors_world import plan, world
from tests.bench.report import Report


@pytest.mark.parametrize("bench", ["lfw", "encode", "load", "ranges", "priors", "bulk", "search", "train"])
def test_without_lfw_a_bench_says_so_and_exits_with_2(bench, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", f"tests.bench.{bench}", "--quick", "--data", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "LFW is not at" in done.stderr
    assert done.stdout == ""


def test_a_backup_is_measured_with_all_that_comes_before_and_after(tmp_path, capsys):
    measure(Report("backup"), "sqlite", tmp_path / "one.sqlite", tmp_path / "two.sqlite", tmp_path, GROUP)
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["figure"] for each in told] == [
        "catalog_bytes_per_person",
        "backup_seconds",
        "backup_bytes_per_person",
        "restore_seconds",
        "switch_seconds",
    ]
    assert all(each["value"] > 0 for each in told)


def test_a_fold_is_judged_at_the_threshold_that_is_best_on_the_others():
    scores = np.array([0.9, 0.8, 0.1, 0.2, 0.55, 0.3, 0.45, 0.7])
    same = np.array([True, True, False, False, True, False, False, True])
    held = np.array([False, False, False, False, True, True, True, True])
    # On the first four every threshold above 0.2 and up to 0.8 makes no mistake; 0.8 is the one among the scores.
    assert accuracy_of_fold(scores, same, held) == 0.5


def test_every_pair_is_scored_once_and_barred_people_are_not_impostors_of_each_other():
    embeddings = {
        name: vector / np.linalg.norm(vector)
        for name, vector in zip(
            ["A_0001", "A_0002", "B_0001", "C_0001"],
            np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32),
            strict=True,
        )
    }
    names = sorted(embeddings)

    def slow(barred):
        mated, impostor = [], []
        for i, a in enumerate(names):
            for b in names[i + 1 :]:
                score = sum(float(x) * float(y) for x, y in zip(embeddings[a], embeddings[b], strict=True))
                if a[0] == b[0]:
                    mated.append(score)
                elif {a[0], b[0]} != barred:
                    impostor.append(score)
        return mated, impostor

    for without, barred in (((), set()), ((("C", "A"),), {"A", "C"})):
        mated, impostor = all_pairs(embeddings, names, without=without)
        expected = slow(barred)
        assert np.allclose(sorted(mated), sorted(expected[0]), atol=1e-6)
        assert np.allclose(sorted(impostor), sorted(expected[1]), atol=1e-6)


def test_open_set_counts_a_mate_as_missed_when_it_is_not_first_or_not_above_the_threshold():
    unknown = np.linspace(0, 1, 101).astype(np.float32)  # one in a hundred is above 0.99
    scores = np.array([0.995, 0.995, 0.5, 0.5], np.float32)
    first = np.array([True, False, True, False])
    fnir, rank1 = open_set(scores, first, unknown)
    assert (fnir, rank1) == (0.75, 0.5)


def test_a_crowd_made_after_faces_has_the_spread_of_their_impostors():
    faces = np.random.default_rng(1).standard_normal((3000, 64)) * np.linspace(1, 0.2, 64) + 0.1
    faces = (faces / np.linalg.norm(faces, axis=1, keepdims=True)).astype(np.float32)
    crowd = crowd_of("lfw", 256, faces)
    block = crowd.block(0)[:3000]
    apart = ~np.eye(3000, dtype=bool)
    ours, theirs = (block @ block.T)[apart], (faces @ faces.T)[apart]
    assert ours.mean() == pytest.approx(theirs.mean(), abs=0.02)
    assert ours.std() == pytest.approx(theirs.std(), rel=0.1)


def test_probes_have_the_cosine_of_their_stratum_and_rivals_are_the_best_of_all_others():
    crowd = crowd_of("mixed", 32, np.random.default_rng(1).standard_normal((200, 32)).astype(np.float32))
    probes = probes_of(crowd, 3 * BLOCK, 4)
    members = np.concatenate([crowd.block(number) for number in range(3)])
    for number in range(3):
        probes.watch(BLOCK * number, crowd.block(number))
    for probe, mate, cosine, rival in zip(probes.vectors, probes.mates, probes.cosines, probes.rivals, strict=True):
        assert float(probe @ members[mate]) == pytest.approx(cosine, abs=1e-5)
        assert rival == pytest.approx(max(np.delete(members @ probe, mate)), abs=1e-5)
    assert len(probes.mates) == 3 * len(STRATA) * 4


def test_a_cosine_belongs_to_the_highest_stratum_below_it():
    assert [stratum_of(cosine) for cosine in (0.34, 0.35, 0.449, 0.9)] == [None, 0.35, 0.4, 0.6]


def test_strangers_are_counted_in_safe_mode_too_and_there_never_above_the_rate(capsys):
    Strangers(Report("priors"), world(5_000, 10, 40), [1, 2, 3], 120, 0.03, 6_000, Rule()).arms()
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    arms = [
        "intact",
        "wrong homes",
        "drift",
        "look-alikes",
        "spoofed claim",
        "spoofed device",
        "digits",
    ]
    assert [each["arm"] for each in told] == [name for arm in arms for name in (arm, f"{arm}, safe")]
    for each in told:
        assert each["searches"] >= 5_990
        assert each["low"] <= (0.5 if each["arm"].endswith("safe") else 1.0), each


def test_reliability_weighs_those_who_stand_for_many_and_leaves_small_deciles_out():
    posterior = np.concatenate([np.full(200, 0.25), np.full(100, 0.95), np.full(99, 0.55)])
    true = np.concatenate([np.arange(200) < 60, np.arange(100) < 90, np.ones(99, bool)])
    weight = np.where(np.arange(399) < 60, 3.0, 1.0)
    low, high = deciles(Told(posterior, true, weight))
    assert (low.number, low.cases, high.number, high.cases) == (2, 200, 9, 100)
    assert low.off == pytest.approx(0.25 - 180 / 320)
    assert low.noise == pytest.approx(np.sqrt((60 * 9 + 140) * 0.25 * 0.75) / 320)
    assert high.off == pytest.approx(0.05)


def test_strangers_in_doubt_stand_for_all_of_them():
    made, scores = world(5_000, 10, 40), scale(60, 0.0, 10**8)
    here = plan(made, 3, scores, scores, 0.01, 0.01)
    looks, wanted = Looks(made, Rule(), 60, np.random.default_rng(1)), 3_000
    looks.strangers(here, wanted)
    told = looks.told

    random, said = np.random.default_rng(2), []
    for _ in range(1_500):
        probe = Scorer(made, random, 60, -1)
        found = look(here.budget, Rule(), made.habits, here.tiers, probe.score, probe.search, top=5)
        said.append(found.posteriors[0])
    one_by_one = np.array(said)

    assert not told.true.any()
    for low, high in ((0.0, 0.1), (0.1, 0.3), (0.3, 1.1)):
        inside, plainly = ((x >= low) & (x < high) for x in (told.posterior, one_by_one))
        share, noise = told.weight[inside].sum() / wanted, np.sqrt((told.weight[inside] ** 2).sum()) / wanted
        spread = np.hypot(noise, np.sqrt(plainly.mean() / len(plainly)))
        assert share == pytest.approx(plainly.mean(), abs=4 * spread), low
        assert low == 0 or spread < 0.15 * plainly.mean()


def test_an_import_that_has_ended_is_nothing_to_measure_beside():
    still_running({"state": "running", "done": 64})
    with pytest.raises(SystemExit, match="the import is done after 9 photos"):
        still_running({"state": "done", "done": 9})
