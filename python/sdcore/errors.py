"""Every failure that a user can cause is an `SDCoreError`, of a kind that says whose fault."""

__all__ = [
    "CancelledError",
    "CheckpointError",
    "FileError",
    "InvalidArgumentError",
    "MissingAttributeError",
    "MissingNameError",
    "NumericalError",
    "OutOfMemoryError",
    "SDCoreError",
    "UnsupportedModelError",
]


class SDCoreError(RuntimeError):
    """Base of all errors of sdcore; raised itself only for faults of sdcore's own. Its text is one
    line, whatever characters a file has in its names."""

    def __str__(self) -> str:
        text = super().__str__()
        if text.isprintable():
            return text
        return "".join(
            c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
        )


class InvalidArgumentError(SDCoreError, ValueError):
    """A value that the caller passed cannot be used."""


class MissingAttributeError(InvalidArgumentError, AttributeError):
    """An object has no such attribute; the text says what there is in place of it."""


class MissingNameError(InvalidArgumentError, ImportError):
    """sdcore has no such name to import; the text says what there is in place of it."""


class CheckpointError(SDCoreError):
    """A file is damaged, incomplete, or not what it says it is."""


class UnsupportedModelError(SDCoreError):
    """A sound file holds something that sdcore cannot run."""


class FileError(SDCoreError, OSError):
    """The operating system refused to open, read or write a file."""


class OutOfMemoryError(SDCoreError, MemoryError):
    """There was not enough memory."""


class NumericalError(SDCoreError):
    """What a network gave are not numbers any more, or infinite."""


class CancelledError(SDCoreError):
    """The caller asked to stop."""
