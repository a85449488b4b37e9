"""One thing at a time, in the order asked for: the thread that draws, and what waits for it."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sdcore.errors import SDCoreError

if TYPE_CHECKING:
    from PIL import Image

    from sdcore.pipelines.stream import Step, Stream

__all__ = ["BusyError", "Job", "Jobs"]

log = logging.getLogger("sdcore.server")

_MOST_WAITING = 64


class BusyError(SDCoreError):
    """The server takes no more jobs, now or at all."""


@dataclass
class Job:
    """What a request waits for. The drawing thread writes how far it is; any thread reads it, and
    may ask it to stop, which it does within the step that it is at."""

    id: int
    kind: str
    future: Future[Any] = field(default_factory=Future)
    interrupted: bool = False
    skipped: bool = False
    started: float | None = None
    runs: int = 1  # of the pipeline, which draw a batch each
    run: int = 0
    stream: Stream | None = None  # this run
    step: Step | None = None  # the last one of it
    shown: tuple[Step, Image.Image] | None = None  # the step that was last looked at
    looking: threading.Lock = field(default_factory=threading.Lock)
    on_step: Callable[[Step], None] | None = None

    def interrupt(self) -> None:
        """No more pictures."""
        self.interrupted = True
        self._stop_run()

    def skip(self) -> None:
        """No more of the pictures that are being drawn now."""
        self.skipped = True
        self._stop_run()

    def _stop_run(self) -> None:
        if (stream := self.stream) is not None:
            stream.stop()

    @property
    def progress(self) -> float:
        """From 0 to 1."""
        step = self.step
        share = 0.0 if step is None else (step.index + 1) / step.total
        return min((self.run + share) / self.runs, 1.0)

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return 0.0 if self.started is None else time.monotonic() - self.started

    @property
    def since(self) -> str:
        """When it began, as the web UI writes it."""
        return time.strftime("%Y%m%d%H%M%S", time.localtime(time.time() - self.elapsed))

    def see(self, step: Step) -> None:
        self.step = step
        if self.on_step is not None:
            self.on_step(step)


class Jobs:
    """A queue and its one thread, which alone touches what may change of a pipeline."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sdcore-draw")
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._alive: dict[int, Job] = {}  # the running one and those that wait, by their ids
        self._closed = False
        self.running: Job | None = None

    @property
    def waiting(self) -> int:
        """How many have not begun."""
        return max(len(self._alive) - (self.running is not None), 0)

    def submit(self, kind: str, work: Callable[[Job], Any]) -> Job:
        """Queues `work`, which is given its job. Raises BusyError."""
        with self._lock:
            if self._closed:
                raise BusyError("[server] the server is shutting down")
            if len(self._alive) > _MOST_WAITING:
                raise BusyError(f"[server] {_MOST_WAITING} requests wait already: try again later")
            job = Job(next(self._ids), kind)
            self._alive[job.id] = job
            job.future = self._pool.submit(self._run, job, work)
        job.future.add_done_callback(lambda _: self._forget(job))
        return job

    def cancel(self, job: Job) -> None:
        """Nobody waits for it any more: it ends, or never begins."""
        job.interrupt()
        job.future.cancel()

    def interrupt(self) -> None:
        """Ends the running job with what it has drawn so far."""
        if (job := self.running) is not None:
            job.interrupt()

    def skip(self) -> None:
        """Ends what the running job is drawing; it goes on with its next pictures."""
        if (job := self.running) is not None:
            job.skip()

    def close(self) -> None:
        """Takes no more, drops what waits, and ends what runs within its step."""
        with self._lock:
            self._closed = True
            alive = list(self._alive.values())
        for job in alive:
            job.interrupt()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def join(self) -> None:
        """Waits for what ran when it was closed."""
        self._pool.shutdown(wait=True)

    @property
    def closed(self) -> bool:
        return self._closed

    def _run(self, job: Job, work: Callable[[Job], Any]) -> Any:
        self.running, job.started = job, time.monotonic()
        try:
            return work(job)
        finally:
            self.running = None
            log.info("[server] job %d, %s: %.2f s", job.id, job.kind, job.elapsed)

    def _forget(self, job: Job) -> None:
        with self._lock:
            self._alive.pop(job.id, None)
