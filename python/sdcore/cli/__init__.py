"""The `sdcore` command: sub-commands, and what becomes of errors.

Exit code 0; 1 with one line `error: …` for what failed; 2 for bad usage and bad values of flags;
130 after Ctrl-C; 143 when it is told to end (SIGTERM); 141 when nobody reads the output.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from typing import NoReturn

from sdcore import __version__
from sdcore.cli import bench, convert, export, imatrix, img2img, info, quantize, serve, txt2img
from sdcore.errors import InvalidArgumentError, SDCoreError

__all__ = ["main"]

_COMMANDS = (txt2img, img2img, convert, quantize, imatrix, export, info, bench, serve)
_EXAMPLES = """\
examples:
  sdcore txt2img -m model.safetensors "a red circle"
  sdcore convert model.safetensors model.gguf
  sdcore info model.safetensors
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit code, or raises SystemExit(2) for bad usage."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a prompt may not fit the terminal
    words = list(sys.argv[1:] if argv is None else argv)
    args = _parser(words).parse_args(words)
    verbose = getattr(args, "verbose", False)
    logger = logging.getLogger("sdcore")
    level = logger.level
    handler = _log_to_stderr(verbose, getattr(args, "quiet", False))
    try:
        with _terminable():
            args.run(args)
        sys.stdout.flush()  # here a broken pipe can still be told apart
        return 0
    except InvalidArgumentError as error:
        return _fail(str(error), 2)  # whoever noticed it
    except SDCoreError as error:
        return _fail(str(error))
    except _TerminatedError:
        return _fail("terminated", 143)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        # Python would flush once more at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except MemoryError:
        return _fail("out of memory: try a smaller picture")
    except OSError as error:
        where = f" '{error.filename}'" if error.filename else ""
        return _fail(f"{error.strerror or error}{where}")
    except Exception as error:
        if verbose:
            traceback.print_exc()
        hint = "" if verbose else " (a fault of sdcore; -v shows where)"
        return _fail(f"{type(error).__name__}: {error}{hint}")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)  # a program may go on after its command


class _TerminatedError(KeyboardInterrupt):
    """Ends a command as Ctrl-C does, so that what it was writing is cleared away."""


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    def end(*_: object) -> NoReturn:
        raise _TerminatedError

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is told of signals
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


class _Parser(argparse.ArgumentParser):
    """One line for bad usage, where argparse prints the whole usage first."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message} (see '{self.prog} --help')", file=sys.stderr)
        sys.exit(2)


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """Only the command that is asked for has its arguments: they take a while to collect."""
    parser = _Parser(
        prog="sdcore",
        description="Pictures from text with Stable Diffusion models, on CPUs and NVIDIA's GPUs.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"sdcore {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in _COMMANDS:
        command = commands.add_parser(
            module.NAME,
            help=module.HELP,
            description=module.HELP[0].upper() + module.HELP[1:] + ".",
            epilog=module.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if module.NAME in words[:1]:
            module.add_arguments(command)
        command.set_defaults(run=module.run, parser=command)
    return parser


def _fail(message: str, code: int = 1) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


class _Once(logging.Filter):
    """Lets each message through once: a batch would repeat its warnings for every picture."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        new = message not in self._seen
        self._seen.add(message)
        return new


class _Lines(logging.Handler):
    """`warning: …` on standard error, above a progress bar that may be there."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(f"{record.levelname.lower()}: {record.getMessage()}", file=sys.stderr)


def _log_to_stderr(verbose: bool, quiet: bool) -> logging.Handler:
    handler = _Lines()
    handler.addFilter(_Once())
    logger = logging.getLogger("sdcore")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING)
    return handler
