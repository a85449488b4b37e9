"""A picture of what each sampler makes of one prompt and seed, at several numbers of steps.

python examples/sampler_grid.py model.gguf "a lighthouse at dawn" grid.png --samplers euler,dpm++2m
python examples/sampler_grid.py pocket "a red circle above a blue square" grid.png --across 3
"""

from __future__ import annotations

import argparse

from PIL import Image, ImageDraw

import sdcore
from sdcore.webui import samplers

LABEL = 16  # pixels above each picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("prompt")
    parser.add_argument("output")
    parser.add_argument("--samplers", default=",".join(samplers.SAMPLERS), help="by their names")
    parser.add_argument("--steps", default="5,10,20", help="numbers of steps, a column each")
    parser.add_argument("--across", type=int, default=1, help="samplers beside one another")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    pipe = sdcore.DiffusionPipeline.open(args.model)
    own = pipe.scheduler
    names, columns = args.samplers.split(","), [int(steps) for steps in args.steps.split(",")]
    width, height = pipe.default_size
    rows = -(-len(names) // args.across)
    size = args.across * len(columns) * width, rows * (height + LABEL)
    grid = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(grid)
    for place, name in enumerate(names):
        pipe.scheduler = samplers.make(own, name, None)
        block, row = divmod(place, rows)
        for column, steps in enumerate(columns):
            x, y = (block * len(columns) + column) * width, row * (height + LABEL)
            picture = pipe(args.prompt, num_inference_steps=steps, seed=args.seed).images[0]
            draw.text((x + 2, y + 2), f"{name}, {steps}", "black")
            grid.paste(picture, (x, y + LABEL))
    grid.save(args.output)


if __name__ == "__main__":
    main()
