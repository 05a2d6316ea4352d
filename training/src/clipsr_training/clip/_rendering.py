"""How training images reach the encoder's pixel grid: by super-resolution or interpolation, then CLIP's own resize."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image
from rich.progress import track

from clipsr_training._files import write_array
from clipsr_training._precision import autocast
from clipsr_training.clip._checkpoint import ClipCheckpoint
from clipsr_training.clip._data import render
from clipsr_training.clip._preprocess import Fitting, make_preprocess, planar
from clipsr_training.data import PairSource
from clipsr_training.liif import Upscaler, load_liif
from clipsr_training.liif._upscaler import to_uint8

# Images that are rendered in one go.
_RUN = 256


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """What happens to an image before the encoder sees it.

    Attributes:
        upscaler: "none", "bicubic", or a file of LIIF weights.
        scale: enlarge by this factor first, then resize and crop as CLIP does. None: render the largest centred square
            straight onto the encoder's grid, as the service does on its upscaled route.
    """

    upscaler: str | Path = "none"
    scale: float | None = None

    def __post_init__(self) -> None:
        if self.scale is not None and not 1 <= self.scale <= 32:
            raise ValueError(f"the scale of the upscaler must be 1 to 32, got {self.scale:g}")
        if self.scale is not None and self.upscaler == "none":
            raise ValueError("a scale needs an upscaler: bicubic, or a file of LIIF weights")

    @property
    def route(self) -> str:
        """By which route the service renders so: `native` without an upscaler, else `upscaled`."""
        return "native" if self.upscaler == "none" else "upscaled"

    @property
    def version(self) -> str:
        """Change whenever rendered pixels would."""
        weights = hashlib.sha256(self.upscaler.read_bytes()).hexdigest() if isinstance(self.upscaler, Path) else ""
        return f"{'liif' if weights else self.upscaler} {weights} {self.scale}"


class Renderer:
    """Renders images of any size.

    Args:
        rendering: what to do.
        checkpoint: whose resize, crop and R to use.
    """

    def __init__(self, rendering: Rendering, checkpoint: ClipCheckpoint) -> None:
        self.rendering = rendering
        self.image_size_px = checkpoint.image_size_px
        self.liif: Upscaler | None = load_liif(rendering.upscaler) if isinstance(rendering.upscaler, Path) else None
        preprocess = make_preprocess(checkpoint.image_size_px, Fitting.of(checkpoint.config["preprocess_cfg"]))
        self.fit = lambda image: planar(preprocess(image))
        preparation = json.dumps(checkpoint.config["preprocess_cfg"], allow_nan=False)
        self.version = f"{rendering.version} {self.image_size_px} {preparation}"

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Return [N, 3, R, R] uint8; images of one size are rendered together."""
        output = np.empty((len(images), 3, self.image_size_px, self.image_size_px), dtype=np.uint8)
        by_size: dict[tuple[int, int], list[int]] = {}
        for row, image in enumerate(images):
            by_size.setdefault(image.size, []).append(row)
        for rows in by_size.values():
            output[rows] = self._render([images[row] for row in rows])
        return output

    def _render(self, images: Sequence[Image.Image]) -> np.ndarray:
        scale, upscaler = self.rendering.scale, self.rendering.upscaler
        if upscaler == "none":
            return np.stack([self.fit(image) for image in images])
        if scale is None:
            return render(np.stack([np.asarray(image) for image in images]), self.liif, self.image_size_px)
        width, height = (round(side * scale) for side in images[0].size)
        if self.liif is None:
            return np.stack([self.fit(image.resize((width, height), Image.Resampling.BICUBIC)) for image in images])
        return np.stack([self.fit(image) for image in self._enlarge(self.liif, images, (height, width))])

    @torch.inference_mode()
    def _enlarge(
        self, liif: Upscaler, images: Sequence[Image.Image], size_hw: tuple[int, int]
    ) -> Iterator[Image.Image]:
        for image in images:
            lr = torch.from_numpy(np.array(image)).permute(2, 0, 1)
            with autocast():
                sr = liif.upscale(lr, size_hw).float()
            yield Image.fromarray(to_uint8(sr).permute(1, 2, 0).numpy())


class RenderedOnTheFly:
    """Looks like the array [N, 3, R, R] of all images, but reads and renders those that are asked for."""

    def __init__(self, source: PairSource, renderer: Renderer) -> None:
        self.source = source
        self.renderer = renderer

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Return the images of an index array, uint8 [n, 3, R, R]."""
        return self.renderer([self.source.image(int(row)) for row in rows])


def render_to_cache(source: PairSource, renderer: Renderer, cache: Path) -> np.ndarray:
    """Render all images once; what `cache` holds of the same images and rendering is read instead.

    Args:
        source: the images.
        renderer: how.
        cache: folder of rendered arrays; made if missing.

    Returns:
        [N, 3, R, R] uint8, mapped from the file.

    Raises:
        ValueError: an image can't be decoded.
        OSError: the disk is full; nothing is left behind.
    """
    key = hashlib.sha256(f"{source.image_digest} {renderer.version}".encode()).hexdigest()
    path = cache / f"{key[:32]}.npy"
    if path.is_file():
        return cast("np.ndarray", np.load(path, mmap_mode="r"))
    cache.mkdir(parents=True, exist_ok=True)
    starts = track(range(0, len(source), _RUN), description=f"rendering {source.name}")
    runs = ([source.image(row) for row in range(start, min(start + _RUN, len(source)))] for start in starts)
    return write_array(path, len(source), map(renderer, runs))
