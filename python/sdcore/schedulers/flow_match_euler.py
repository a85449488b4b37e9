"""Euler's method on a flow: Esser et al. 2024, "Scaling Rectified Flow Transformers"."""

from collections.abc import Sequence

from sdcore.errors import InvalidArgumentError
from sdcore.schedulers.base import Config, Row, Table, Term
from sdcore.schedulers.flow import FlowScheduler, flow_levels, velocity_x0


def flow_match_euler_table(
    config: Config, steps: int, *, sigmas: Sequence[float] | None = None, mu: float | None = None
) -> Table:
    if config.invert_sigmas:
        raise InvalidArgumentError(
            "[flow_match_euler] invert_sigmas=True is not supported; set it False"
        )
    timesteps, levels = flow_levels(config, steps, sigmas=sigmas, mu=mu)
    rows = []
    for t, sigma, following in zip(timesteps, levels, levels[1:], strict=False):
        term, noise = Term(x=1, m=following - sigma), 0.0
        if config.stochastic_sampling:
            term, noise = Term(x0=1 - following), following
        rows.append(Row(t, velocity_x0(sigma), (term,), noise))
    return Table(tuple(rows), sigmas=tuple(levels[:-1]))


class FlowMatchEulerDiscreteScheduler(
    FlowScheduler,
    table=flow_match_euler_table,
    defaults={
        "base_shift": 0.5,
        "max_shift": 1.15,
        "base_image_seq_len": 256,
        "max_image_seq_len": 4096,
        "invert_sigmas": False,
        "stochastic_sampling": False,
    },
):
    """First order; `stochastic_sampling=True` draws all noise anew at every step."""
