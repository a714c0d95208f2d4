"""What can go wrong in training, as types under the product's one tree of errors."""

from __future__ import annotations

from service.errors import VultusError


class TrainingError(VultusError):
    """Root of everything that the offline half can be told about."""

    status, code, title = 422, "training_failed", "The training cannot go on"


class ConfigError(TrainingError):
    """A configuration names an unknown key, or gives a value that is not allowed."""

    code, title = "config_invalid", "The configuration is not valid"


class DataError(TrainingError):
    """A data set is empty, damaged, or not in the layout that it claims."""

    code, title = "data_invalid", "The data set cannot be used"


class LabelError(DataError):
    """A label is outside the classes that the head owns."""

    code, title = "label_invalid", "A label is not one of the classes"


class ShardingError(TrainingError):
    """Class centres cannot be spread over the ranks as asked."""

    code, title = "sharding_impossible", "The class centres cannot be spread like this"


class CheckpointError(TrainingError):
    """A checkpoint is missing, damaged, or belongs to another configuration."""

    code, title = "checkpoint_invalid", "The checkpoint cannot be used"


class CheckpointSpaceError(TrainingError):
    """No space was left for a checkpoint; the previous one is untouched."""

    status, code, title = 507, "checkpoint_space", "No space is left for the checkpoint"


class NotFiniteError(TrainingError):
    """A tensor became NaN or infinite; the detail names the first one."""

    status, code, title = 500, "not_finite", "A number became NaN or infinite"


class EvaluationError(TrainingError):
    """An evaluation cannot be made from what was given."""

    code, title = "evaluation_impossible", "The evaluation cannot be made"


class RateNotSupportedError(EvaluationError):
    """A false-accept rate is below what the number of impostor pairs can vouch for."""

    code, title = "rate_not_supported", "The error rate cannot be vouched for"


class ParityError(TrainingError):
    """The exported network does not do what the trained one does; no artifact is left."""

    status, code, title = 500, "parity_failed", "The exported network differs from the trained one"
