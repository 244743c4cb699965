"""What a job's first round begins with: a seed's weights, or those of a model that is there."""

from __future__ import annotations

from typing import Any

from torch import nn

from federation.job import Job
from federation.strategies import strategy
from imaging.errors import BadParameter
from models.store import default_store
from training.pretraining import start_from
from training.trainer import initial_network


def started(job: Job) -> tuple[nn.Module, tuple[dict[str, Any], ...]]:
    """The network before the first round, and what the provenance says of its weights.

    A reference is looked up in the store alone: a job names no file of the server's.

    Raises:
        ModelNotFound: the store has no such model.
        BadParameter: weights of another network, or a job whose sites keep layers of their own:
            theirs would begin with the seed's weights, the shared ones with the model's.
    """
    network = initial_network(job.recipe)
    if not job.start:
        return network, ()
    if strategy(job.strategy).keeps or job.local_head:
        raise BadParameter(
            f"Sites of {job.strategy} keep layers of their own, which would not begin with "
            f"{job.start}; take fedavg without local_head, or leave start away."
        )
    found = start_from(job.recipe, default_store().resolve(job.start).path)
    network.load_state_dict(found.state)
    return network, found.data
