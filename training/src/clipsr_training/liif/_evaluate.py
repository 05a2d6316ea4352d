"""Super-resolution quality of a model beside interpolation, on folders of high-resolution images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image

from clipsr_training.data import IMAGE_ENDINGS, find_images, read_image
from clipsr_training.degradation import FileFormat, Kernel, Thumbnail, generator, make_thumbnail
from clipsr_training.liif._metrics import Convention
from clipsr_training.liif._strips import upscale_in_strips
from clipsr_training.liif._upscaler import Upscaler, to_uint8

Method = Literal["bicubic", "lanczos", "model"]
_NOISE_SEED = 0
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True, kw_only=True)
class Input:
    """How the low-resolution images are made.

    Attributes:
        kernel: of the reduction.
        noise: standard deviation of the noise after it, in levels of 255; the same for every image of a size.
        jpeg_quality: of the file they are saved in, 4:2:0; None saves them losslessly.
    """

    kernel: Kernel = "bicubic"
    noise: float = 0.0
    jpeg_quality: int | None = None

    @property
    def title(self) -> str:
        """What a report calls it."""
        noise = f", noise of standard deviation {self.noise:g}" if self.noise else ""
        return f"{self.kernel}{noise}" + ("" if self.jpeg_quality is None else f", JPEG {self.jpeg_quality}")

    def make(self, hr: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
        """Return an image at a size, uint8 RGB."""
        files = () if self.jpeg_quality is None else (FileFormat(quality=self.jpeg_quality),)
        thumbnail = Thumbnail(size_hw=size_hw, kernel=self.kernel, noise=self.noise, files=files)
        return make_thumbnail(hr, thumbnail, generator(_NOISE_SEED, 0, "sr"))


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Mean over images: PSNR in dB, SSIM in [-1, 1]."""

    psnr_db: float
    ssim: float


@dataclass(frozen=True, kw_only=True)
class ScaleQuality:
    """One set at one scale.

    Attributes:
        scale: integer factor.
        n_images: images measured.
        skipped: names of the images that are too small for this scale.
        quality: by method; empty where every image was skipped.
    """

    scale: int
    n_images: int
    skipped: tuple[str, ...]
    quality: Mapping[Method, Quality]


@dataclass(frozen=True, kw_only=True)
class SetQuality:
    """One set of images at every scale."""

    name: str
    scores: tuple[ScaleQuality, ...]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image at one scale: RGB uint8 [H, W, 3], `lr` reduced by the scale and `sr` by each method."""

    lr: np.ndarray
    hr: np.ndarray
    sr: Mapping[Method, np.ndarray]


def list_images(folder: Path) -> list[Path]:
    """Return the images directly in a folder, in the order of their names.

    Raises:
        FileNotFoundError: the folder is missing or holds none.
    """
    paths = find_images(folder, recursive=False)
    if not paths:
        reason = "it holds none" if folder.is_dir() else "there is no such folder"
        raise FileNotFoundError(f"no images in {folder}: {reason} ({', '.join(sorted(IMAGE_ENDINGS))})")
    return paths


def resize(
    image: np.ndarray, size_hw: tuple[int, int], resampling: Image.Resampling = Image.Resampling.BICUBIC
) -> np.ndarray:
    """Resize uint8 RGB; the default is cubic (a = -1/2), antialiased when it reduces, as MATLAB's imresize does."""
    return np.asarray(Image.fromarray(image).resize((size_hw[1], size_hw[0]), resampling))


@torch.inference_mode()
def upscale_uint8(model: Upscaler, lr: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Upscale uint8 RGB [H, W, 3] on the model's device, and round to uint8."""
    device = next(model.parameters()).device
    sr = upscale_in_strips(model, torch.from_numpy(lr.transpose(2, 0, 1).copy()).to(device), size_hw)
    return to_uint8(sr).permute(1, 2, 0).cpu().numpy()


def make_sample(model: Upscaler, image: np.ndarray, scale: int, made: Input | None = None) -> Sample:
    """Cut an image to a multiple of the scale, reduce it, and upscale it back by every method."""
    height, width = (n // scale * scale for n in image.shape[:2])
    hr = image[:height, :width]
    lr = (made or Input()).make(hr, (height // scale, width // scale))
    sr: dict[Method, np.ndarray] = {
        "bicubic": resize(lr, (height, width)),
        "lanczos": resize(lr, (height, width), Image.Resampling.LANCZOS),
        "model": upscale_uint8(model, lr, (height, width)),
    }
    return Sample(lr=lr, hr=hr, sr=sr)


def evaluate_sr(
    model: Upscaler,
    folder: Path,
    scales: Sequence[int],
    convention: Convention,
    *,
    made: Input | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> SetQuality:
    """Measure a model on a folder of high-resolution images, one image in memory at a time.

    Args:
        model: any upscaler.
        folder: images directly in it.
        scales: integer factors.
        convention: how images are compared.
        made: how the low-resolution images are; None reduces cleanly.
        on_step: called after every image and scale.

    Raises:
        FileNotFoundError: the folder holds no image.
        ValueError: a file cannot be read as an image, or every image is too small for every scale.
    """
    paths = list_images(folder)
    measured: dict[int, list[dict[Method, Quality]]] = {scale: [] for scale in scales}
    skipped: dict[int, list[str]] = {scale: [] for scale in scales}
    for path in paths:
        image = read_image(path)
        for scale in scales:
            if convention.fits((image.shape[0], image.shape[1]), scale):
                measured[scale].append(_measure(make_sample(model, image, scale, made), scale, convention))
            else:
                skipped[scale].append(path.name)
            on_step()
    if not any(measured.values()):
        raise ValueError(f"every image in {folder} is too small for {', '.join(f'×{s}' for s in scales)}")
    scores = tuple(
        ScaleQuality(
            scale=scale,
            n_images=len(measured[scale]),
            skipped=tuple(skipped[scale]),
            quality=_mean(measured[scale]),
        )
        for scale in scales
    )
    return SetQuality(name=folder.resolve().name, scores=scores)


def _measure(sample: Sample, scale: int, convention: Convention) -> dict[Method, Quality]:
    qualities: dict[Method, Quality] = {}
    for method, sr in sample.sr.items():
        psnr_db, ssim = convention.compare(sr, sample.hr, scale)
        qualities[method] = Quality(psnr_db=psnr_db, ssim=ssim)
    return qualities


def _mean(measured: Sequence[Mapping[Method, Quality]]) -> dict[Method, Quality]:
    if not measured:
        return {}
    return {
        method: Quality(
            psnr_db=float(np.mean([m[method].psnr_db for m in measured])),
            ssim=float(np.mean([m[method].ssim for m in measured])),
        )
        for method in METHODS
    }
