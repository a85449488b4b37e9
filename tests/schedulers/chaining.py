"""One run of a scheduler on random model outputs, step for step beside diffusers' own."""

import copy
import functools
import inspect
import sys
from types import SimpleNamespace

import diffusers
import mpmath
import numpy as np
import torch
from diffusers.schedulers import scheduling_lms_discrete

from sdcore import schedulers

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
STEPS = (1, 2, 5, 20)
SPACINGS = ("leading", "trailing", "linspace")
PREDICTIONS = ("epsilon", "sample", "v_prediction")
SHAPE = (2, 4, 6, 5)


class ExactTable:
    """What docs/add-a-scheduler.md says that a row means, in float64."""

    def __init__(self, rows):
        self.rows, self.past = rows, []

    def step(self, i, x, m, z):
        row = self.rows[i]
        x0 = np.clip(row.x0_from.x * x + row.x0_from.m * m, -row.clip, row.clip)
        self.past.insert(0, (x, x0, m))
        out = row.noise * z
        for term, known in zip(row.terms, self.past, strict=False):
            out = out + sum(weight * value for weight, value in zip(term, known, strict=False))
        return out


def chain(name, config, steps, monkeypatch, options=None, **step_options):
    """Asserts that one run is diffusers', row for row: the table in float64, and the sampler that
    applies it in float32. `options` are of set_timesteps, the others of diffusers' step."""
    options = options or {}
    reference = new_reference(name, config, monkeypatch)
    ours = schedulers.get(name).from_config(config)
    in_float64(reference)
    reference.set_timesteps(steps, **options)
    ours.set_timesteps(steps, **options, **step_options)
    np.testing.assert_allclose(ours.timesteps, reference.timesteps.numpy(), 1e-6, 1e-6)
    initial = float(getattr(reference, "init_noise_sigma", 1.0))
    np.testing.assert_allclose(ours.init_noise_sigma, initial, rtol=1e-6)
    compare(reference, ours, steps, monkeypatch, **step_options)


def compare(reference, ours, seed, monkeypatch, **step_options):
    in_float64(reference)
    rng = np.random.default_rng(seed)
    noise = draw(rng)
    module = sys.modules[type(reference).__module__]
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", lambda *a, **k: torch.from_numpy(noise))
    exact = ExactTable(ours.table.rows)
    x = (np.float32(ours.init_noise_sigma) * draw(rng)).astype(np.float32)
    x64, expected = x.astype(np.float64), torch.from_numpy(x).double()
    step_options = {
        key: value
        for key, value in step_options.items()
        if key in inspect.signature(reference.step).parameters
    }
    for i, (t, row) in enumerate(zip(reference.timesteps, ours.table.rows, strict=True)):
        m = draw(rng)
        if hasattr(reference, "scale_model_input"):
            scaled = reference.scale_model_input(expected, t).numpy()
            assert distance(row.input_scale * x64, scaled) < 1e-6
            assert distance(ours.scale_model_input(x, row.timestep), scaled) < single(i)
        noise = draw(rng)
        expected = reference.step(torch.from_numpy(m), t, expected, **step_options).prev_sample
        x64 = exact.step(i, x64, m, noise)
        assert distance(x64, expected.numpy()) < 1e-6
        x = ours.step(m, row.timestep, x, noise)
        assert distance(x, expected.numpy()) < single(i)


def draw(rng):
    """Normal numbers that float32 holds."""
    return rng.standard_normal(SHAPE, np.float32).astype(np.float64)


def distance(value, expected):
    return np.linalg.norm(value - expected) / np.linalg.norm(expected)


def single(rows_before):
    """About ten operations a row are rounded to float32; what each is off by is independent."""
    return 2**-24 * 10 * (rows_before + 4) ** 0.5


_made = {}


def new_reference(name, config, monkeypatch):
    """A copy, because making one takes longer."""
    key = (name, repr(config))
    kind = reference_class(name, monkeypatch)
    if key not in _made:
        with monkeypatch.context() as patch:
            # Some constructors build a table of 1000 steps.
            patch.setattr(kind, "set_timesteps", _no_timesteps)
            _made[key] = kind.from_config(config)
    return copy.deepcopy(_made[key])


def _no_timesteps(self, *_):
    self.sigmas = torch.zeros(1)


def reference_class(name, monkeypatch):
    """diffusers' class, with stand-ins for what it asks SciPy for."""
    kind = getattr(diffusers, name)
    if name == "LMSDiscreteScheduler":
        kind = scheduling_lms_discrete.LMSDiscreteScheduler
        stand_in = SimpleNamespace(quad=_quad)
        monkeypatch.setattr(scheduling_lms_discrete, "integrate", stand_in, raising=False)
    module = sys.modules[kind.__module__]
    stats = SimpleNamespace(stats=SimpleNamespace(beta=SimpleNamespace(ppf=_beta_ppf)))
    monkeypatch.setattr(module, "scipy", stats, raising=False)
    monkeypatch.setattr(module, "is_scipy_available", lambda: True, raising=False)
    monkeypatch.setattr(module, "rescale_zero_terminal_snr", rescale_zero_snr, raising=False)
    return kind


def rescale_zero_snr(betas):
    """diffusers' function with NumPy's roots: torch's are rounded as the processor's maker likes,
    and where nearly all is noise that can be seen."""
    root = torch.from_numpy(np.sqrt(torch.cumprod(1 - betas, dim=0).numpy()))
    first, last = root[0].clone(), root[-1].clone()
    alphas = ((root - last) * (first / (first - last))) ** 2
    return 1 - torch.cat([alphas[:1], alphas[1:] / alphas[:-1]])


def _quad(f, a, b, **_):
    """Gauss's rule, which gives integrals of cubics."""
    points, weights = np.polynomial.legendre.leggauss(4)
    a, b = float(a), float(b)
    values = [float(f((a + b) / 2 + (b - a) / 2 * point)) for point in points]
    return [(b - a) / 2 * np.dot(weights, values)]


@functools.cache
def _beta_ppf(p, a, b):
    if p in (0, 1):
        return float(p)
    edge = 1e-9
    share = functools.partial(mpmath.betainc, a, b, 0, regularized=True)
    return float(mpmath.findroot(lambda x: share(x) - p, (edge, 1 - edge), solver="anderson"))


def in_float64(reference):
    """Makes diffusers compute its weights without rounding, from the levels as they are."""
    for field in ("sigmas", "sigmas_interpol", "alphas_cumprod", "final_alpha_cumprod"):
        if hasattr(reference, field):
            setattr(reference, field, getattr(reference, field).double())
