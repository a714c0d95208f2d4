"""The GPU's code against the shape of FAISS' API. No GPU has run it here."""

import numpy as np
import pytest

from service.errors import EngineAbsentError
from service.gallery.index.devices import MOST, OnGpu, in_main_memory, parts_on
from service.gallery.index.rows import restored
from service.gallery.index.segment import packed


class Config:
    device, useFloat16 = 0, False  # noqa: N815 (FAISS' name)


class Flat:
    """What GpuIndexFlatIP does, in float16 on the CPU; like it, it gives 2048 at most and knows no selector."""

    def __init__(self, resources, dim, config):
        assert config.useFloat16
        self.resources, self.device, self.held = resources, config.device, np.empty((0, dim), np.float16)

    def add(self, vectors):
        self.held = np.concatenate([self.held, vectors.astype(np.float16)])

    def search(self, probes, k):
        assert k <= MOST
        scores = probes @ self.held.T.astype(np.float32)
        best = np.argsort(-scores, axis=1)[:, :k]
        return np.take_along_axis(scores, best, axis=1).astype(np.float32), best.astype(np.int64)


class Library:
    StandardGpuResources, GpuIndexFlatConfig, GpuIndexFlatIP = object, Config, Flat

    def __init__(self, gpus):
        self.gpus = gpus

    def get_num_gpus(self):
        return self.gpus


def test_segments_lie_on_the_gpus_in_turn(sealed):
    parts = parts_on("cuda", Library(2))
    segment = sealed(40)
    assert [parts(segment)[0]._index.device for _ in range(3)] == [0, 1, 0]


def test_a_gpu_finds_what_lies_nearest(sealed):
    segment = sealed(40)
    (part,) = parts_on("auto", Library(1))(segment)
    assert isinstance(part, OnGpu)
    probes = restored(segment.numbers[:3], segment.scales[:3])
    scores, places = part.nearest(probes, 5, None)
    assert places[:, 0].tolist() == [0, 1, 2]
    np.testing.assert_allclose(scores[:, 0] / part.trust.slope, 1, atol=2e-3)


def alive(living):
    """Which of forty are alive, as flags."""
    return np.isin(np.arange(40), living)


@pytest.mark.parametrize("living", [[], [7], [3, 7, 39], [*range(40)]])
def test_the_dead_are_passed_over_and_the_living_found_behind_them(sealed, living):
    segment = sealed(40)
    (part,) = parts_on("cuda", Library(1))(segment)
    probe = restored(segment.numbers[:1], segment.scales[:1])
    scores, places = part.nearest(probe, 2, packed(alive(living)))
    found = places[0][places[0] >= 0]
    assert set(found.tolist()) <= set(living)
    assert len(found) == min(2, len(living))
    assert np.isneginf(scores[0][places[0] < 0]).all()


@pytest.mark.parametrize("living", [[], [7], [3, 7, 39], [*range(40)]])
def test_a_second_look_on_a_gpu_shows_the_living_above_a_score(sealed, living):
    segment = sealed(40)
    (part,) = parts_on("cuda", Library(1))(segment)
    exact = restored(segment.numbers, segment.scales) @ restored(segment.numbers, segment.scales)[0]
    least = float(np.sort(exact)[-20] + np.sort(exact)[-21]) / 2
    scores, places = part.above(restored(segment.numbers[:1], segment.scales[:1]), least, packed(alive(living)))
    assert set(places.tolist()) == set(np.flatnonzero(alive(living) & (exact > least)).tolist())
    np.testing.assert_allclose(scores, exact[places], atol=2e-3)


@pytest.mark.parametrize("library", [Library(0), object()])
def test_asking_for_a_gpu_that_is_not_there_is_refused(library):
    with pytest.raises(EngineAbsentError, match="VULTUS_INDEX_DEVICE=cuda"):
        parts_on("cuda", library)


@pytest.mark.parametrize(("device", "library"), [("auto", Library(0)), ("auto", object()), ("cpu", Library(2))])
def test_without_a_gpu_or_by_wish_the_cpu_searches(device, library):
    assert parts_on(device, library) is in_main_memory
