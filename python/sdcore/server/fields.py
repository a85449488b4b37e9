"""What clients send, field by field: JSON, or the texts of a form."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from sdcore.errors import InvalidArgumentError

__all__ = ["FieldError", "Fields"]

T = TypeVar("T")

_MOST_TEXT = 32_000  # characters of a prompt


class FieldError(InvalidArgumentError):
    """A field that cannot be used; `field` is its name."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field} {message}")
        self.field, self._message = field, message

    def within(self, place: str) -> FieldError:
        """The same of a field of what is at this place."""
        return FieldError(f"{place}.{self.field}", self._message)


class Fields:
    """Values by name; null is as good as absent. It remembers what was asked for, so that the rest
    can be told, and `notes` on what was taken otherwise than it says."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = {name: value for name, value in values.items() if value is not None}
        self._asked: set[str] = set()
        self.notes: list[str] = []

    def any(self, name: str, default: Any = None) -> Any:
        self._asked.add(name)
        return self._values.get(name, default)

    def note(self, name: str, text: str) -> None:
        self.notes.append(f"{name}: {text}")

    def ignore(self, *names: str) -> None:
        """Takes no notice of these, whatever they say."""
        self._asked.update(names)

    def refuse(self, table: Mapping[str, tuple[Any, ...]]) -> None:
        """Raises FieldError for what is not built, unless it has a value that asks for none of
        it."""
        for name, off in table.items():
            value = self.any(name)
            if value is not None and value not in off:
                instead = f"leave it out, or send {off[0]!r}" if off else "leave it out"
                raise FieldError(name, f"cannot be {value!r:.80} here: {instead}")

    def unasked(self) -> list[str]:
        """The names of what nobody asked for."""
        return sorted(self._values.keys() - self._asked)

    def text(self, name: str, default: str = "") -> str:
        value = self.any(name, default)
        if not isinstance(value, str):
            raise FieldError(name, f"must be a text, got {value!r:.80}")
        if len(value) > _MOST_TEXT:
            raise FieldError(name, f"is longer than {_MOST_TEXT} characters")
        return value.encode("utf-8", "replace").decode()  # JSON may hold half of a pair

    def found(self, name: str, find: Callable[[str], T], default: str = "") -> T:
        """What `find` has by this text; the field is named where it has nothing."""
        try:
            return find(self.text(name) or default)
        except InvalidArgumentError as error:
            raise FieldError(name, f"cannot be used: {error}") from None

    def number(self, name: str) -> float | None:
        value = self.any(name)
        try:
            if isinstance(value, bool):
                raise ValueError
            number = None if value is None else float(value)
            if number is not None and not math.isfinite(number):
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise FieldError(name, f"must be a number, got {value!r:.80}") from None
        return number

    def whole(self, name: str, low: int, high: int | None = None) -> int | None:
        value = self.any(name)
        try:
            if isinstance(value, bool) or (isinstance(value, float) and value % 1):
                raise ValueError
            number = None if value is None else int(value)
        except (TypeError, ValueError, OverflowError):
            raise FieldError(name, f"must be a whole number, got {value!r:.80}") from None
        if number is not None and (number < low or (high is not None and number > high)):
            top = "" if high is None else f" and at most {high}"
            raise FieldError(name, f"must be at least {low}{top}, got {value!r:.80}")
        return number

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.any(name, default)
        value = value.lower() if isinstance(value, str) else value
        if value in (True, "true"):  # 1 is as good, and forms have texts only
            return True
        if value in (False, "false"):
            return False
        raise FieldError(name, f"must be true or false, got {value!r:.80}")

    def mapping(self, name: str) -> Mapping[str, Any]:
        value = self.any(name, {})
        if not isinstance(value, dict):
            raise FieldError(name, f"must be an object, got {value!r:.80}")
        return value
