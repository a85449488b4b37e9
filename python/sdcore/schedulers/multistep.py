"""What multistep methods share that integrate a polynomial through what the model said before."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sdcore.schedulers.base import Term
from sdcore.schedulers.sigmas import Walk


def exponential_integrals(
    nodes: Sequence[float], start: float, end: float, rate: float
) -> NDArray[np.float64]:
    """∫ exp(rate * u) L_j(u) du from start to end, of Lagrange's polynomials over the nodes."""
    from numpy.polynomial import Polynomial  # here, as most models start without it

    weights = []
    for j, own in enumerate(nodes):
        others = [other for k, other in enumerate(nodes) if k != j]
        # Around the end, so that the powers stay small.
        lagrange = Polynomial.fromroots(np.array(others) - end) if others else Polynomial([1.0])
        lagrange /= np.prod([own - other for other in others])
        # By parts: the antiderivative is exp(rate u) (p / rate - p' / rate² + p'' / rate³ …).
        inner, sign = Polynomial([0.0]), 1 / rate
        for _ in nodes:
            inner, lagrange, sign = inner + sign * lagrange, lagrange.deriv(), -sign / rate
        weights.append(inner(0.0) - np.exp(rate * (start - end)) * inner(start - end))
    integrals: NDArray[np.float64] = np.exp(rate * end) * np.array(weights)
    return integrals


def noise_terms(levels: Walk, i: int, weights: Sequence[float]) -> tuple[Term, ...]:
    """Terms that weigh the noise in x, (x - signal * x0) / (signal * sigma), of step i and those
    before it."""
    terms = []
    for j, weight in enumerate(weights):
        signal, sigma = levels.signals[i - j], levels.sigmas[i - j]
        terms.append(Term(x=weight / (signal * sigma), x0=-weight / sigma))
    return tuple(terms)


def merged(x: float, terms: Sequence[Term]) -> tuple[Term, ...]:
    """The terms of a row that also keeps x times its own sample."""
    first, *others = terms
    return (first._replace(x=first.x + x), *others)
