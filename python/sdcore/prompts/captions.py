"""Prompts as T5 models were trained on them: captions found on the web, cleaned.

csrc/text/caption_cleaning.h says by which rules. Markup, which those leave alone, is read by
Python's own parser.
"""

from __future__ import annotations

from html.parser import HTMLParser

from sdcore import _core
from sdcore.tokenizer.reading import as_bytes

__all__ = ["clean_caption"]

# More than the longest text that is read (512 tokens), and little enough for every rule.
_MOST_CHARACTERS = 5000


def clean_caption(caption: str) -> str:
    """In small letters, without links, markup, file names and what else is no description; twice
    over, as its makers do."""
    return _once(_once(caption[:_MOST_CHARACTERS]))


def _once(caption: str) -> str:
    text = _without_markup(_core.without_links(as_bytes(caption)))
    return _core.without_noise(as_bytes(text))


class _Text(HTMLParser):
    """What a page shows."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.shown: list[str] = []

    def handle_data(self, data: str) -> None:
        if self.cdata_elem is None:  # no script
            self.shown.append(data)


def _without_markup(text: str) -> str:
    if "<" not in text and "&" not in text:
        return text
    parser = _Text()
    parser.feed(text)
    parser.close()
    return "".join(parser.shown)
