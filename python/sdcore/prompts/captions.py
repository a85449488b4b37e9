"""Prompts as T5 models were trained on them: captions found on the web, cleaned.

The rules are DeepFloyd IF's (deep-floyd/IF, t5.py), which PixArt's makers and diffusers took over
as `clean_caption`. Two of their steps are other packages' there: here Python's own parser reads
markup, and text in a wrong encoding, which nobody types, is left alone.
"""

from __future__ import annotations

import html
import re
import urllib.parse
from html.parser import HTMLParser

__all__ = ["clean_caption"]

# More than the longest text that is read (512 tokens), and little enough for every rule.
_MOST_CHARACTERS = 5000

_FILES = "png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4"
_SITE = r"[a-zA-Z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@)"


def _rules(*rows: tuple[str, str]) -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(pattern), into) for pattern, into in rows]


_LINKS = _rules(
    ("<person>", "person"),
    (rf"\b(https?:(?:/{{1,3}}|[a-zA-Z0-9%])|{_SITE})", ""),
    (rf"\b(www:(?:/{{1,3}}|[a-zA-Z0-9%])|{_SITE})", ""),
)
_SIGNS = _rules(
    (r"@[\w\d]+\b", ""),  # somebody's name
    # Strokes, phonetic extensions, enclosed and compatible letters, ideographs, hexagrams.
    (r"[\u31c0-\u31ef\u31f0-\u31ff\u3200-\u32ff\u3300-\u33ff\u3400-\u4dbf\u4dc0-\u9fff]+", ""),
    (
        r"[\u002d\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u301c\u3030"
        r"\u30a0\ufe31\ufe32\ufe58\ufe63\uff0d]+",
        "-",
    ),
    (r"[`´«»“”¨]", '"'),
    (r"[‘’]", "'"),
    (r"&quot;?", ""),
    (r"&amp", ""),
    (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),  # an address of a machine
    (r"\d:\d\d\s+$", ""),
    (r"\\n", " "),
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (rf"(?<!\S)\S+\.(?:{_FILES})", ""),
    (r"[\"\']{2,}", '"'),
    (r"[\.]{2,}", " "),
    (r"[#®•©™&@·º½¾¿¡§~\)\(\]\[\}\{\|\\\/\*]{1,}", " "),
    (r"\s+\.\s+", " "),
)
_JOINS = re.compile(r"[-_]")
_WORDS = _rules(
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),  # numbers of articles
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),
    (r"\b\d+[a-zA-Z]+\d+\b", ""),
    (r"(worldwide\s+)?(free\s+)?shipping", ""),
    (r"(free\s)?download(\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b(?:{_FILES})(\simage[s]?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
    (r"\b\d+\.?\d*[xх×]\d+\.?\d*\b", ""),
    (r"\b\s+\:\s+", ": "),
    (r"(\D[,\./])\b", r"\1 "),
    (r"\s+", " "),
    (r"^[\"\']([\w\W]+)[\"\']$", r"\1"),
    (r"^[\'\_,\-\:;]", ""),
    (r"[\'\_,\-\:\-\+]$", ""),
    (r"^\.\S+$", ""),
)


def clean_caption(caption: str) -> str:
    """In small letters, without links, markup, file names and what else is no description; twice
    over, as its makers do."""
    return _once(_once(caption[:_MOST_CHARACTERS]))


def _once(caption: str) -> str:
    text = urllib.parse.unquote_plus(caption).strip().lower()
    text = _apply(_SIGNS, _without_markup(_apply(_LINKS, text)))
    if len(_JOINS.findall(text)) > 3:  # this-is-my-cute-cat
        text = _JOINS.sub(" ", text)
    return _apply(_WORDS, html.unescape(html.unescape(text))).strip()


def _apply(rules: list[tuple[re.Pattern[str], str]], text: str) -> str:
    for pattern, into in rules:
        text = pattern.sub(into, text)
    return text


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
