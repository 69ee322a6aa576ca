"""Shrink pictures to thumbnails, on pictures drawn here so that there is nothing to download.

Needs Pillow in the environment of the supervisor: `pip install pillow`. Serve the queue, then add a job:

    sandq supervise thumbnails=examples/thumbnails.py
    sandq add thumbnails shrink --data '{"seed": 7, "width": 1600, "height": 1200, "sizes": [640, 160, 48]}' --wait

One job in a real child, without Redis:

    sandq run examples/thumbnails.py --data '{"seed": 7}'

Codecs are written in C, and a picture that crashes one takes the process with it. Here that is a child: the job runs
again on another, and after `max_crashes` it ends as failed with a certificate that names the signal.
"""

from __future__ import annotations

import hashlib
import io
import random
from typing import Any

from PIL import Image, ImageDraw, ImageFilter


def process(job: Any) -> dict[str, Any]:
    width, height = job.data.get("width", 1600), job.data.get("height", 1200)
    sizes = job.data.get("sizes", [640, 160, 48])
    picture = draw(job.data.get("seed", 0), width, height)
    job.log(f"drew a picture of {width} x {height}")
    thumbnails = []
    for done, size in enumerate(sizes, start=1):
        thumbnails.append(shrink(picture, size))
        job.progress(round(100 * done / len(sizes)))
    return {"width": width, "height": height, "thumbnails": thumbnails}


def draw(seed: int, width: int, height: int) -> Image.Image:
    """A picture like no other seed's: soft coloured discs on a gradient."""
    rng = random.Random(seed)
    picture = Image.merge("RGB", [Image.linear_gradient("L").rotate(90 * k).resize((width, height)) for k in range(3)])
    canvas = ImageDraw.Draw(picture)
    for _ in range(60):
        x, y, r = rng.randrange(width), rng.randrange(height), rng.randint(8, max(9, min(width, height) // 6))
        canvas.ellipse((x - r, y - r, x + r, y + r), fill=tuple(rng.randrange(256) for _ in range(3)))
    return picture.filter(ImageFilter.GaussianBlur(3))


def shrink(picture: Image.Image, size: int) -> dict[str, Any]:
    """A copy that fits into a square of `size`, as WebP: its measures and a hash, as an upload would report them."""
    small = picture.copy()
    small.thumbnail((size, size), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "WEBP", quality=80, method=6)
    content = file.getvalue()
    return {
        "width": small.width,
        "height": small.height,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
