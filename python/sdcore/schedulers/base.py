"""What all schedulers share: the configuration, the table of steps, and applying it. A scheduler
itself is one pure function from a configuration to a table, in a file of its own."""

import inspect
import json
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdcore import _core
from sdcore.arguments import nearest
from sdcore.errors import CheckpointError, FileError, InvalidArgumentError
from sdcore.schedulers.output import StepOutput

Array = NDArray[np.float32]
T = TypeVar("T")
AnyScheduler = TypeVar("AnyScheduler", bound="Scheduler")


# What diffusers' schedulers take at each step, where it asks for nothing.
_OFF: Mapping[str, Any] = {
    "s_churn": 0,
    "s_tmin": 0,
    "s_tmax": math.inf,
    "s_noise": 1,
    "use_clipped_model_output": False,
}

# How models are trained to take noise away, each of which other schedulers undo.
PROCESSES: Mapping[str, str] = {
    "diffusion": "diffusion in discrete timesteps",
    "flow": "flow matching",
    "edm": "EDM",
    "consistency": "consistency training",
}


class Term(NamedTuple):
    """Weights of what one step knew: its x, its (clipped) x0, the model's output m, and the noise z
    that it drew."""

    x: float = 0.0
    x0: float = 0.0
    m: float = 0.0
    z: float = 0.0


@dataclass(frozen=True)
class Row:
    """What follows one evaluation m of the model, at `input_scale` * x and `timestep`:

    x0 = x0_from.x * x + x0_from.m * m, clipped to ±clip
    x' = Σ over ages j of (terms[j].x * x + terms[j].x0 * x0 + terms[j].m * m + terms[j].z * z)
         + noise * z

    where age 0 is this step, whose z has its weight in `noise` alone, and age j what the step j
    before it knew. With a `quantile`, each image's x0 is clipped to that quantile of its size, at
    least 1 and at most `clip`, and divided by it. `always_draws` has z drawn even where it is not
    used, so that later steps get the numbers that diffusers gives them.
    """

    timestep: int | float
    x0_from: Term
    terms: tuple[Term, ...]
    noise: float = 0.0
    clip: float = math.inf
    input_scale: float = 1.0
    quantile: float = 0.0
    always_draws: bool = False

    @property
    def draws(self) -> bool:
        """Whether a z is drawn."""
        return self.always_draws or self.noise != 0


@dataclass(frozen=True)
class Table:
    """A whole schedule: rows in the order in which they are applied."""

    rows: tuple[Row, ...]
    init_noise_sigma: float = 1.0
    # Noise over signal in what each row is given, and the signal where it is not 1; for schedulers
    # that place their own levels.
    sigmas: tuple[float, ...] = ()
    signals: tuple[float, ...] = ()

    def after(self, rows: int) -> "Table":
        """The same without its first rows."""
        levels = self.sigmas[rows:], self.signals[rows:]
        return Table(self.rows[rows:], self.init_noise_sigma, *levels)

    @cached_property
    def timesteps(self) -> NDArray[Any]:
        values = np.array([row.timestep for row in self.rows])
        values.flags.writeable = False
        return values


class Config(Mapping[str, Any]):
    """A scheduler's fields, read as items or as attributes: those that were given, then the
    defaults of the class. Fields the class does not know are kept for others to read."""

    def __init__(self, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self.given = dict(given)
        self._all = {**defaults, **self.given}

    def __getitem__(self, name: str) -> Any:
        return self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._all:
            raise AttributeError(f"the scheduler's configuration has no field {name!r}")
        return self._all[name]

    def __repr__(self) -> str:
        return f"Config({self._all})"


def choice(config: Config, field: str, options: Mapping[str, T]) -> T:
    """The option that a field names."""
    value = config[field]
    if not isinstance(value, str) or value not in options:
        raise InvalidArgumentError(
            f"[scheduler] {field} must be one of {', '.join(options)}; got {value!r}"
        )
    return options[value]


def number(config: Config, field: str) -> float:
    """The value of a field that has to be a finite number."""
    value = config[field]
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise InvalidArgumentError(f"[scheduler] {field} must be a number, got {value!r}")
    return float(value)


class Scheduler(ABC):
    """A configuration, and once `set_timesteps` was called the table of a run. The interface is
    diffusers', on NumPy arrays; `step` does its arithmetic in the core."""

    registry: ClassVar[dict[str, type["Scheduler"]]] = {}
    defaults: ClassVar[Mapping[str, Any]] = {}
    rows_a_step: ClassVar[int] = 1
    process: ClassVar[str] = ""  # how the models that it is for were trained: a key of PROCESSES
    # Whether the weights of m in rows are for the negative prompt's, and x0 alone is guided.
    renoises_negative: ClassVar[bool] = False
    make_table: ClassVar[Callable[..., Table]]

    def __init_subclass__(
        cls,
        table: Callable[..., Table] | None = None,
        defaults: Mapping[str, Any] | None = None,
        rows_a_step: int = 1,
    ) -> None:
        """`table` is the scheduler itself: a function of (config, number of steps, options of its
        own). `defaults` are the values of fields that a configuration leaves out."""
        super().__init_subclass__()
        cls.rows_a_step = rows_a_step
        cls.defaults = {**cls.defaults, **(defaults or {})}
        if table is not None:
            cls.make_table = staticmethod(table)
            Scheduler.registry[cls.__name__] = cls

    def __init__(self, **fields: Any) -> None:
        self._require_known(fields)
        self._configure(fields)

    @classmethod
    def _require_known(cls, fields: Mapping[str, Any]) -> None:
        if unknown := sorted(fields.keys() - cls.defaults.keys()):
            raise InvalidArgumentError(
                f"[{cls.__name__}] there is no field {unknown[0]!r}"
                + (nearest(unknown[0], cls.defaults) or f": it has {', '.join(cls.defaults)}")
            )

    def _configure(self, fields: Mapping[str, Any]) -> None:
        self.config = Config(fields, self.defaults)
        self._table: Table | None = None

    @property
    def trained_by(self) -> str:
        """How models must have been trained for this configuration: a key of PROCESSES."""
        along_flow = "use_flow_sigmas" in self.defaults and self.config.use_flow_sigmas
        return "flow" if along_flow else self.process

    @property
    def takes_eta(self) -> bool:
        """Whether the caller may say how much noise is added: the option `eta` of its table."""
        return "eta" in inspect.signature(self.make_table).parameters

    @classmethod
    def from_config(
        cls: type[AnyScheduler],
        config: Mapping[str, Any] | str | PathLike[str] | None = None,
        **fields: Any,
    ) -> AnyScheduler:
        """From another scheduler's `.config`, a dict, a scheduler_config.json or a folder that
        holds one; keyword arguments override its fields. What the source left to its defaults is
        left to this class's own, and fields that it does not know are kept for others.

        Raises FileError and CheckpointError for the file, and InvalidArgumentError for a keyword
        that is no field of this class.
        """
        cls._require_known(fields)
        if isinstance(config, (str, PathLike)):
            config = read_config(Path(config))
        if not isinstance(config, Mapping | None):
            raise InvalidArgumentError(
                f"[{cls.__name__}] a configuration is a mapping or a path, got {config!r:.80}"
            )
        given = dict(config.given) if isinstance(config, Config) else dict(config or {})
        for name in given.pop("_use_default_values", ()):  # diffusers marks its defaults so
            given.pop(name, None)
        given = {name: value for name, value in given.items() if not name.startswith("_")}
        made = cls.__new__(cls)
        made._configure({**given, **fields})
        return made

    @classmethod
    def from_pretrained(
        cls: type[AnyScheduler],
        folder: str | PathLike[str],
        subfolder: str | None = None,
        **fields: Any,
    ) -> AnyScheduler:
        """`from_config` of a folder, or of one within it, in diffusers' words."""
        return cls.from_config(Path(folder, subfolder or ""), **fields)

    def set_timesteps(
        self, num_inference_steps: int, device: Any = None, *, begin: int = 0, **options: Any
    ) -> None:
        """Builds the table of a run; `options` are the scheduler's own, such as DDIM's eta. The
        first `begin` steps are left out, for a run that starts from a noisy picture. `device`, in
        which diffusers' scripts say where their tensors are, is not needed. `timesteps` or
        `sigmas` place the steps by hand, where a scheduler places its own levels."""
        config = self._placed_by(options)
        own = inspect.signature(self.make_table).parameters
        if unknown := sorted(options.keys() - own.keys()):
            raise InvalidArgumentError(f"[{type(self).__name__}] it takes no {unknown[0]}")
        self._table = self._make(config, num_inference_steps, begin, options)
        self._eta = options.get("eta", own["eta"].default if "eta" in own else 0)
        self._sampler = _core.Sampler(
            [
                _core.StepRow(
                    row.timestep,
                    row.input_scale,
                    row.x0_from.x,
                    row.x0_from.m,
                    row.clip,
                    row.quantile,
                    [_core.StepTerm(*term) for term in row.terms],
                    row.noise,
                    row.draws,
                )
                for row in self._table.rows
            ],
            self._table.init_noise_sigma,
        )
        self._next = 0

    def _placed_by(self, options: dict[str, Any]) -> Config:
        """The configuration of a run, with what is in `options` of steps placed by hand."""
        return self.config

    def _make(self, config: Config, steps: int, begin: int, options: Mapping[str, Any]) -> Table:
        if not begin:
            return type(self).make_table(config, steps, **options)
        if not 0 < begin < steps:
            raise InvalidArgumentError(
                f"[scheduler] begin must be from 0 to {steps - 1}, got {begin}"
            )
        if "begin" in inspect.signature(self.make_table).parameters:  # what looks back begins anew
            return type(self).make_table(config, steps, begin=begin, **options)
        table = type(self).make_table(config, steps, **options)
        return table.after(begin * self.rows_a_step)

    @property
    def table(self) -> Table:
        if self._table is None:
            raise InvalidArgumentError(f"[{type(self).__name__}] call set_timesteps first")
        return self._table

    @property
    def timesteps(self) -> NDArray[Any]:
        return self.table.timesteps

    @property
    def init_noise_sigma(self) -> float:
        return self.table.init_noise_sigma

    def scale_model_input(self, sample: ArrayLike, t: float) -> Array:
        """What the model is given in place of `sample` at timestep t."""
        scale = np.float32(self.table.rows[self._index(t)].input_scale)
        scaled: Array = np.asarray(sample, np.float32) * scale
        return scaled

    def step(
        self,
        model_output: ArrayLike,
        t: float,
        sample: ArrayLike,
        noise: ArrayLike | None = None,
        negative: ArrayLike | None = None,
        *,
        generator: Any = None,
        return_dict: bool = True,
        **others: Any,
    ) -> Any:
        """The next sample, a `StepOutput`. `noise` is normal noise of the sample's shape, for rows
        that add any; a torch.Generator, or a list of one an image, draws it as in diffusers.
        `negative` is what the model gave for the negative prompt, for CFG++; without it the output
        is taken to be unguided. What the step took the clean sample to be is left in `denoised`.

        As in diffusers, `return_dict=False` gives a tuple of the sample, and `others` are what its
        schedulers take at each step: InvalidArgumentError where they ask for anything.
        """
        index = self._index(t)
        x = np.asarray(sample, np.float32)
        m = np.asarray(model_output, np.float32)
        noise = others.pop("variance_noise", None) if noise is None else noise
        self._require_of_run(others)
        if noise is None and generator is not None and self.table.rows[index].draws:
            noise = _drawn(generator, x.shape)
        z = None if noise is None else np.asarray(noise, np.float32)
        out: Array = self._sampler.step(index, x, m, z)
        if self.renoises_negative and negative is not None:
            weight = np.float32(self.table.rows[index].terms[0].m)
            out = out + weight * (np.asarray(negative, np.float32) - m)
        self._next = index + 1
        self.denoised: Array = self._sampler.x0.reshape(x.shape)
        made = StepOutput.of(out, self.denoised)
        return made if return_dict else (made.prev_sample,)

    def _require_of_run(self, others: Mapping[str, Any]) -> None:
        """Raises InvalidArgumentError for what diffusers takes at a step and a run has not."""
        for name, value in others.items():
            of_run = self._eta if name == "eta" else _OFF.get(name)
            if value is None or value == of_run:
                continue
            instead = f": it is a run's, set_timesteps(n, eta={value})" if name == "eta" else ""
            raise InvalidArgumentError(
                f"[{type(self).__name__}] step takes no {name}{instead if self.takes_eta else ''}"
            )

    def _index(self, t: float) -> int:
        # A timestep may stand twice (methods of second order), so the row after the last comes
        # first; any other starts a new run from there.
        timesteps = self.table.timesteps
        if self._next < len(timesteps) and timesteps[self._next] == t:
            return self._next
        found = np.flatnonzero(timesteps == t)
        if not len(found):
            listed = ", ".join(str(value) for value in timesteps)
            raise InvalidArgumentError(
                f"[{type(self).__name__}] {t} is not a timestep of this run; they are {listed}"
            )
        return int(found[0])

    def add_noise(self, original: ArrayLike, noise: ArrayLike, t: ArrayLike) -> Array:
        """`original` as it stands at timestep t, one for all images or one an image."""
        x = np.asarray(original, np.float32)
        signal, sigma = self.noise_level(np.atleast_1d(np.asarray(t)))
        per_image = (-1,) + (1,) * (x.ndim - 1)
        z = np.asarray(noise, np.float32)
        noisy: Array = signal.reshape(per_image) * x + sigma.reshape(per_image) * z
        return noisy

    def levels(self) -> tuple[Array, Array]:
        """The factors of image and noise in what each row of the table is given: [rows] each. A run
        that was under way begins anew."""
        pairs = []
        for index, row in enumerate(self.table.rows):
            self._next = index  # for a timestep may stand twice
            pairs.append(self.noise_level(np.array([row.timestep])))
        self._next = 0
        signals, sigmas = zip(*pairs, strict=True)
        return np.concatenate(signals), np.concatenate(sigmas)

    @abstractmethod
    def noise_level(self, t: NDArray[Any]) -> tuple[Array, Array]:
        """The factors of image and noise in a noisy sample, for each timestep."""


def _drawn(generator: Any, shape: Sequence[int]) -> Array:
    """Normal noise from one of torch's generators for all images, or one each."""
    several = isinstance(generator, list | tuple)
    torch: Any = sys.modules.get("torch")  # who has a generator of it has loaded it
    if torch is None or not all(
        isinstance(one, torch.Generator) for one in (generator if several else [generator])
    ):
        raise InvalidArgumentError(
            "[scheduler] generator must be a torch.Generator, or a list of nothing else"
        )

    def numbers(one: Any, sizes: Sequence[int]) -> Any:
        return torch.randn(tuple(sizes), generator=one, device=one.device).cpu()

    if not several:
        return np.asarray(numbers(generator, shape), np.float32)
    if len(generator) != shape[0]:
        raise InvalidArgumentError(
            f"[scheduler] there are {shape[0]} images and {len(generator)} generators"
        )
    return np.stack([np.asarray(numbers(one, shape[1:]), np.float32) for one in generator])


def read_config(path: Path) -> dict[str, Any]:
    """The fields of a scheduler_config.json, given as the file, its folder or the model's."""
    if path.is_dir():
        places = [path / "scheduler_config.json", path / "scheduler" / "scheduler_config.json"]
        path = next((place for place in places if place.is_file()), places[0])
    try:
        fields = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise FileError(f"[scheduler] cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"[scheduler] {path} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise CheckpointError(
            f"[scheduler] {path} must hold an object, not {type(fields).__name__}"
        )
    return fields
