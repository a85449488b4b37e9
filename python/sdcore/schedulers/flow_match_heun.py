"""Heun's method on a flow: Karras et al. 2022, algorithm 1, along Esser et al. 2024's path."""

import itertools

from sdcore.schedulers.base import Config, Row, Table, Term
from sdcore.schedulers.flow import FlowScheduler, flow_levels, velocity_x0


def flow_match_heun_table(config: Config, steps: int) -> Table:
    """Two rows a step: to the next level, and again from the beginning with the mean of both
    outputs."""
    timesteps, levels = flow_levels(config, steps)
    rows, at = [], []
    for i, (sigma, following) in enumerate(itertools.pairwise(levels)):
        distance = following - sigma
        rows.append(Row(timesteps[i], velocity_x0(sigma), (Term(x=1, m=distance),)))
        at.append(sigma)
        if following > 0:
            terms = Term(m=distance / 2), Term(x=1, m=distance / 2)
            rows.append(Row(timesteps[i + 1], velocity_x0(following), terms))
            at.append(following)
    return Table(tuple(rows), sigmas=tuple(at))


class FlowMatchHeunDiscreteScheduler(FlowScheduler, table=flow_match_heun_table, rows_a_step=2):
    """Second order, two evaluations a step."""
