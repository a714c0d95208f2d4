"""A small gallery with a history, for the tests of the budget and the planner."""

import functools

import numpy as np

from service.identify.budget import Scales, floors, share_out
from service.identify.calibration import fit
from service.identify.prior import Habits, Level, prior, residents

PEOPLE, DEVIATION = 400, 0.09
HABITS = Habits()
HOME = np.repeat([1, 2, 0], [150, 150, 100])
EVERYBODY = np.arange(PEOPLE)
RESIDENTS = residents(EVERYBODY, HOME, regions=3)
AFFINITY = np.array([0.5, 0.8, 0.1])
VISITS = Level(np.array([3, 7, 200]), np.array([6.0, 2.5, 1.0]), np.array([1.0, 1.0, 1.0]))


@functools.cache
def scale(shift=0.0):
    """What cosines mean where impostors are drawn from N(shift, 0.09) and mates from N(0.6, 0.1)."""
    random = np.random.default_rng(0)
    return fit(random.normal(0.6, 0.1, 20_000), random.normal(shift, DEVIATION, 3_000_000))


def scales(near=0.0, far=0.0):
    excess = max(1.0, scale(near).mean_likelihood(), scale(far).mean_likelihood())
    return Scales(scale(near), scale(far), np.array([False, True, False]), excess)


def history(levels=(VISITS,), unknown=0.3):
    return prior(levels, RESIDENTS, AFFINITY, unknown, HABITS)


def shared(prior, alpha, scales_=None, *, insist=True):
    return share_out(prior, scales_ or scales(), alpha, floors(alpha, prior.residents.people), insist=insist)


def budget(alpha=0.01, **near_and_far):
    return shared(history(), alpha, scales(**near_and_far))
