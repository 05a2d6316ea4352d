"""The models in PyTorch, from checkpoints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import joblib
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from clipsr_training import prompts
from clipsr_training._identity import digest_modules
from clipsr_training.clip import ClipCheckpoint
from clipsr_training.clip._preprocess import Fitting, make_preprocess, planar
from clipsr_training.controller import ControlledClip, Controller
from clipsr_training.data import decode
from clipsr_training.data._route_table import RouteTable
from clipsr_training.evaluation._backends.base import LocalBackend, Scoring, require_finite, resolve_templates
from clipsr_training.evaluation._backends.pixels import Canvas, Route, make_canvas
from clipsr_training.liif import Upscaler
from clipsr_training.liif._upscaler import to_uint8

# A reference LIIF at 224 px keeps 256 channels of every output pixel: 50 MB an image and layer.
_RENDER_BATCH = 8
# One text batch of a ViT-L text tower takes about a gigabyte at 512.
_TEXT_BATCH = 256


class TorchBackend(LocalBackend):
    """See `Backend`.

    Args:
        clip: the checkpoint; moved to the device.
        upscaler: renders small images; None makes the upscaled route an error.
        name: for reports.
        device: where the models run.
        precision: "fp32", or "bf16" for autocast of the encoders; images are rendered in fp32 always.
        routes: which route images take by themselves; None lets the shorter side decide, at the checkpoint's
            `clipsr_cfg` or half of R.
        controller: steers the image tower, unless it says that an image is clean.
    """

    def __init__(
        self,
        clip: ClipCheckpoint,
        upscaler: Upscaler | None,
        *,
        name: str,
        device: str = "cpu",
        precision: str = "fp32",
        routes: RouteTable | None = None,
        controller: Controller | None = None,
    ) -> None:
        default_side = clip.config.get("clipsr_cfg", {}).get("native_min_side_px", clip.image_size_px // 2)
        bias = clip.logit_bias
        super().__init__(
            image_size_px=clip.image_size_px,
            scoring=Scoring(
                function="softmax" if bias is None else "sigmoid", logit_scale=clip.logit_scale, logit_bias=bias or 0.0
            ),
        )
        self.routes = routes or RouteTable(native_min_side_px=default_side)
        self._fitting = Fitting.of(clip.config.get("preprocess_cfg", {}))
        self._preprocess = make_preprocess(clip.image_size_px, self._fitting)
        self._pool = ThreadPoolExecutor(joblib.cpu_count())
        self._name = name
        # Equal weights behind another resize, or with another scale, are another model.
        facts = json.dumps([clip.config, asdict(self.routes)], sort_keys=True, allow_nan=False)
        self._digest = digest_modules(clip.model, upscaler, controller, facts=facts)
        self._precision = precision
        try:
            self._device = torch.device(device)
            self._model = clip.model.to(self._device)
            self._upscaler = None if upscaler is None else upscaler.to(self._device)
            self._controller = None if controller is None else controller.to(self._device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"cannot use the device {device!r}: {str(error).splitlines()[0]}") from error
        self._clip = clip
        mean, std = (torch.tensor(v, device=self._device).view(1, 3, 1, 1) for v in (clip.mean, clip.std))
        self._mean, self._std = mean, std

    def describe(self) -> dict[str, object]:
        """See `Backend`."""
        return {
            "backend": "torch",
            "model": self._name,
            "digest": self._digest,
            "precision": self._precision,
            "device": str(self._device),
            "torch": torch.__version__,
        }

    def embed_images(self, files: Sequence[bytes], names: Sequence[str], *, route: Route) -> np.ndarray:
        """See `LocalBackend`."""
        return self.encode_pixels(self.render(files, names, route=route))

    def render(self, files: Sequence[bytes], names: Sequence[str], *, route: Route) -> np.ndarray:
        """Return what the encoder sees of encoded images, uint8 [N, 3, R, R]; ValueError if one can't be decoded."""
        prepared = list(self._pool.map(lambda file, name: self._prepare(file, name, route), files, names))
        pixels = np.empty((len(prepared), 3, self.image_size_px, self.image_size_px), dtype=np.uint8)
        by_size: dict[int, list[int]] = {}
        for i, item in enumerate(prepared):
            if isinstance(item, Canvas):
                by_size.setdefault(item.pixels.shape[-1], []).append(i)
            else:
                pixels[i] = item
        for rows in by_size.values():
            canvases = [prepared[i] for i in rows]
            canvas = np.stack([c.pixels for c in canvases if isinstance(c, Canvas)])
            box = np.array([c.box for c in canvases if isinstance(c, Canvas)], dtype=np.float32)
            pixels[rows] = self.upscale(canvas, box)
        return pixels

    def _prepare(self, file: bytes, name: str, route: Route) -> Canvas | np.ndarray:
        image = decode(file, name)
        if route == "auto":
            route = self.routes.choose(file, (image.height, image.width), lambda: np.asarray(image))
        if route == "native":
            return planar(self._preprocess(image))
        return make_canvas(image, self._fitting)

    def embed_labels(self, labels: Sequence[str], templates: Sequence[str]) -> np.ndarray:
        """See `LocalBackend`."""
        resolved = resolve_templates(templates)
        texts = [prompts.expand(template, label) for label in labels for template in resolved]
        parts = [self.encode_texts(texts[i : i + _TEXT_BATCH]) for i in range(0, len(texts), _TEXT_BATCH)]
        mean = np.concatenate(parts).reshape(len(labels), len(resolved), -1).mean(axis=1)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    @torch.inference_mode()
    def upscale(self, canvas: np.ndarray, box: np.ndarray) -> np.ndarray:
        """Map canvas uint8 [N, 3, S, S] and box float32 [N, 4] to pixels uint8 [N, 3, R, R]; ValueError if it can't."""
        if self._upscaler is None:
            raise ValueError("images take the upscaled route, but no upscaler was given: name one, or use the native")
        size_hw = (self.image_size_px, self.image_size_px)
        rendered: list[np.ndarray] = []
        for start in range(0, len(canvas), _RENDER_BATCH):
            part = slice(start, start + _RENDER_BATCH)
            lr, region = (torch.from_numpy(array[part]).to(self._device) for array in (canvas, box))
            sr = self._upscaler.render(self._upscaler.features(lr), region, size_hw)
            rendered.append(to_uint8(sr).cpu().numpy())
        return np.concatenate(rendered)

    @torch.inference_mode()
    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Map pixels uint8 [N, 3, R, R] to L2-normalized embeddings float32 [N, D]."""
        images = (torch.from_numpy(pixels).to(self._device).float() / 255 - self._mean) / self._std
        with self._autocast():
            if self._controller is None:
                features = self._clip.encode_image(images)
            else:
                features = ControlledClip(clip=self._clip, controller=self._controller).encode(images).content
        return _normalized(features)

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Map texts to L2-normalized embeddings float32 [N, D]."""
        with self._autocast():
            features = self._clip.encode_text(self._clip.tokenizer(list(texts)).to(self._device))
        return _normalized(features)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._precision == "bf16")


def _normalized(features: Tensor) -> np.ndarray:
    return require_finite(functional.normalize(features.float(), dim=-1).cpu().numpy(), "embeddings")
