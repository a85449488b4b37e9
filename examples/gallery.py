"""A page of pictures, each over its prompt.

python examples/gallery.py page.png "a green star" "a house under the moon"
python examples/gallery.py docs/pocket.png            # the page in the README
python examples/gallery.py page.png -m model.gguf "a cat" "a dog" --columns 2
"""

from __future__ import annotations

import argparse
import textwrap

from PIL import Image, ImageDraw, ImageFont

import sdcore

PROMPTS = (
    "a red circle on the left of a blue square",
    "a small yellow star above a large green ring, dark blue background",
    "a white heart inside a pink square",
    "a red house and a tree on green hills under the sun",
    "a striped purple diamond below an orange triangle",
    "a brown cross, a blue circle and a red heart in a row, beige background",
    "the moon over the sea",
    "a dotted green circle to the right of a black star, gray background",
    "a big orange heart on a light blue background",
    "a yellow house on the hills at night under the moon",
    "a pink ring on top of a purple square",
    "the sun above the sea on a sunny day",
)
LINE = 13  # pixels


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output")
    parser.add_argument("prompts", nargs="*", default=PROMPTS)
    parser.add_argument("-m", "--model", default="pocket")
    parser.add_argument("--columns", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_intermixed_args()

    pipe = sdcore.DiffusionPipeline.open(args.model)
    width, height = pipe.default_size
    texts = [textwrap.wrap(prompt, width // 6) for prompt in args.prompts]
    cell = height + LINE * max(map(len, texts)) + LINE
    rows = -(-len(texts) // args.columns)
    page = Image.new("RGB", (args.columns * (width + LINE) + LINE, rows * cell + LINE), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default()
    for i, (prompt, lines) in enumerate(zip(args.prompts, texts, strict=True)):
        row, column = divmod(i, args.columns)
        x, y = LINE + column * (width + LINE), LINE + row * cell
        page.paste(pipe(prompt, seed=args.seed).images[0], (x, y))
        draw.multiline_text((x, y + height + 2), "\n".join(lines), "black", font, spacing=1)
    page.save(args.output)


if __name__ == "__main__":
    main()
