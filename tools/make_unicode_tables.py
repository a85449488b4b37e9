"""Writes csrc/text/unicode_tables.inc.

What a letter, a number and a lower-case form are is asked of the `tokenizers` package, whose ids we
have to match; canonical decompositions and combining classes come from Python's unicodedata, as far
as `tokenizers` knows them. Run it again when `tokenizers` learns a newer Unicode:

    python tools/make_unicode_tables.py > csrc/text/unicode_tables.inc
"""

import unicodedata
from collections.abc import Callable, Iterable

import tokenizers
from tokenizers import Regex
from tokenizers.normalizers import NFC, NFD, Lowercase, Replace

CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
OVERLAY, IOTA = "\u0334", "\u0345"  # the marks of the lowest class, 1, and of the highest, 240


def ranges(points: Iterable[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for c in points:
        if found and found[-1][1] == c - 1:
            found[-1] = (found[-1][0], c)
        else:
            found.append((c, c))
    return found


def in_class(pattern: str) -> list[tuple[int, int]]:
    erase: Callable[[str], str] = Replace(Regex(pattern), "").normalize_str
    return ranges(c for c in CODE_POINTS if erase(chr(c)) == "")


def lower_case() -> list[tuple[int, int, int, int]]:
    """(first, last, stride, distance to the lower-case form)."""
    lower = Lowercase().normalize_str
    rows: list[tuple[int, int, int, int]] = []
    for c in CODE_POINTS:
        to = lower(chr(c))
        if to == chr(c):
            continue
        if len(to) > 1:
            assert c == 0x130, f"only U+0130 is known to become two, not U+{c:04X}"
            continue
        delta = ord(to) - c
        if rows:
            first, last, stride, previous = rows[-1]
            step = c - last
            if previous == delta and step <= 2 and (first == last or step == stride):
                rows[-1] = (first, c, step, delta)
                continue
        rows.append((c, c, 1, delta))
    return rows


def combining_classes() -> list[tuple[int, int, int]]:
    """(first, last, class)."""
    reorder = NFD().normalize_str
    rows: list[tuple[int, int, int]] = []
    for c in CODE_POINTS:
        mark, kind = chr(c), unicodedata.combining(chr(c))
        # Marks that `tokenizers` knows change places with one that belongs before or after them.
        pair = IOTA + mark if kind == 1 else mark + OVERLAY
        if kind == 0 or reorder(pair) == pair:
            continue
        if rows and rows[-1][1:] == (c - 1, kind):
            rows[-1] = (rows[-1][0], c, kind)
        else:
            rows.append((c, c, kind))
    return rows


def decompositions() -> list[tuple[int, ...]]:
    """(whole, first, second), or (whole, first) where one code point stands for another."""
    rows = []
    for c in CODE_POINTS:
        text = unicodedata.decomposition(chr(c))
        known = NFD().normalize_str(chr(c)) != chr(c)
        if text and not text.startswith("<") and known:
            rows.append((c, *(int(part, 16) for part in text.split())))
    return rows


def composes(row: tuple[int, ...]) -> bool:
    return NFC().normalize_str(chr(row[0])) == chr(row[0])


def table(declaration: str, rows: Iterable[tuple[int, ...]], decimals: int = 0) -> str:
    """`decimals` is how many of the last columns are not code points."""
    lines = [" "]
    for row in rows:
        split = len(row) - decimals
        cells = [f"0x{v:X}" for v in row[:split]] + [str(v) for v in row[split:]]
        cell = " {" + ",".join(cells) + "},"
        if len(lines[-1]) + len(cell) > 100:
            lines.append(" ")
        lines[-1] += cell
    body = "\n".join(lines)
    return f"constexpr {declaration}[] = {{\n{body}\n}};\n"


def main() -> None:
    whole = decompositions()
    print("// Made by tools/make_unicode_tables.py, which says where the numbers come from")
    print(f"// (tokenizers {tokenizers.__version__}; Unicode {unicodedata.unidata_version}).\n")
    print(table("Range kLetters", in_class(r"\p{L}")))
    print(table("Range kNumbers", in_class(r"\p{N}")))
    print(table("CaseRange kLowerCase", lower_case(), 2))
    print(table("MarkRange kCombiningClasses", combining_classes(), 1))
    print("// These compose again,")
    print(table("Decomposition kComposed", filter(composes, whole)))
    print("// and these do not.")
    print(table("Decomposition kDecomposed", (row for row in whole if not composes(row))), end="")


if __name__ == "__main__":
    main()
