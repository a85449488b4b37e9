"""One run of a scheduler on random model outputs, step for step beside diffusers' own."""

import copy
import functools
import importlib
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
        x0 = row.x0_from.x * x + row.x0_from.m * m
        size = row.clip
        if row.quantile:
            per_image = np.abs(x0).reshape(len(x0), -1)
            size = np.quantile(per_image, row.quantile, axis=1).clip(1)
            size = np.minimum(size, row.clip).reshape(-1, 1, 1, 1)
        x0 = np.clip(x0, -size, size) / (size if row.quantile else 1)
        self.past.insert(0, (x, x0, m, z))
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
    # Some are found from a level, which diffusers rounds first.
    np.testing.assert_allclose(ours.timesteps, reference.timesteps.numpy(), rtol=1e-6, atol=1e-4)
    initial = float(getattr(reference, "init_noise_sigma", 1.0))
    np.testing.assert_allclose(ours.init_noise_sigma, initial, rtol=1e-6)
    compare(reference, ours, steps, monkeypatch, **step_options)


class Brownian:
    """The noise of diffusers' samplers that ask for that of an interval: what is drawn anew, after
    what was drawn for the first part of it."""

    def __init__(self, draw):
        self.draw, self.start = draw, None

    def __call__(self, start, end):
        fresh = torch.from_numpy(self.draw())
        if start != self.start:
            self.start, self.middle, self.drawn = start, end, fresh
            return fresh
        share = (start - self.middle) / (start - end)
        return share.sqrt() * self.drawn + (1 - share).sqrt() * fresh


def compare(reference, ours, seed, monkeypatch, begin=0, **step_options):
    in_float64(reference)
    if hasattr(reference, "noise_sampler"):
        reference.noise_sampler = Brownian(lambda: noise)
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
    timesteps = reference.timesteps[begin:]
    for i, (t, row) in enumerate(zip(timesteps, ours.table.rows, strict=True)):
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
    if name == "DPMSolverSDEScheduler":
        monkeypatch.setitem(sys.modules, "torchsde", SimpleNamespace())
        kind = importlib.import_module("diffusers.schedulers.scheduling_dpmsolver_sde")
        kind = kind.DPMSolverSDEScheduler
    else:
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
    if "clip_denoised" in reference.config and len(reference.sigmas):
        reference.sigmas[-1] = reference.config.sigma_min  # else a rounding's root is noise
    if hasattr(reference, "sigmas_down"):
        _ancestral_in_float64(reference)


def _ancestral_in_float64(reference):
    """The levels of DPM2 a, which diffusers has from differences of rounded squares."""
    levels = torch.cat([reference.sigmas[:1], reference.sigmas[1:-1:2]])
    following = torch.cat([levels[1:], torch.zeros(1)])
    down = torch.where(levels > 0, following**2 / levels, 0.0)
    up = (following**2 - down**2).clamp(min=0).sqrt()
    halfway = (levels * down).sqrt()
    for field, values in (("down", down), ("up", up), ("interpol", halfway)):
        twice = [values[:1], values[1:].repeat_interleave(2), values[-1:]]
        setattr(reference, f"sigmas_{field}", torch.cat(twice))
