"""The ensembles in one process: decode, upscale, image_encoder and similarity as Triton runs them, without Triton."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipsr_serving.backends import Model, open_model, read_integer_parameter, read_model_args
from clipsr_serving.cores import count_cores
from clipsr_serving.errors import ModelCallError, ModelOutputError, ServingError
from clipsr_serving.images import (
    FIT_OF_RESIZE_MODE,
    make_canvas,
    make_native_pixels,
    parse_fit,
    read_image,
)
from clipsr_serving.manifest import Manifest, read_manifest
from clipsr_serving.profiles import choose_profile, default_profile, read_cpu_flags
from clipsr_serving.route_table import RouteTaken
from clipsr_serving.text.model import TextModel
from clipsr_serving.text.vocabulary import Vocabulary, find_words, load_vocabulary
from clipsr_serving.text.warnings import TextWarning, cut_warnings, unknown_warnings
from clipsr_serving.zero_shot import Similarities, SimilarityRequest, ZeroShotClassifier, build_zero_shot_classifier

__all__ = ["DecodedImage", "EmbeddedTexts", "Pipeline", "RobustEmbedding"]


@dataclass(frozen=True, kw_only=True)
class DecodedImage:
    """What `decode` or `decode_native` makes of one image.

    Attributes:
        size_hw: rows and columns of the image, upright.
        route: the one taken.
        tensors: `canvas` UINT8 [1, 3, S, S] and `box` FP32 [1, 4], or `pixels` UINT8 [1, 3, R, R].
    """

    size_hw: tuple[int, int]
    route: RouteTaken
    tensors: Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class RobustEmbedding:
    """What `robust_encoder` makes of one image.

    Attributes:
        embedding: FP32 [1, D], L2-normalized.
        degradation_cosine: FP32 [C], in the order of `robust_encoder.kinds` in the manifest.
        degradation_probability: FP32 [C].
    """

    embedding: NDArray[np.float32]
    degradation_cosine: NDArray[np.float32]
    degradation_probability: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class EmbeddedTexts:
    """What `embed_text` makes of texts.

    Attributes:
        values: FP32 [N, D], L2-normalized.
        is_cut: BOOL [N], whether the text encoder does not see all of a text.
    """

    values: NDArray[np.float32]
    is_cut: NDArray[np.bool_]


class Pipeline:
    """The models of a repository. Threads may share one; its engines work for one of them at a time.

    Images go through `decode`, `render` and `encode`. Each returns an outcome for each image, in order, and passes on
    the exception of one that failed before, so that an image fails alone.

    Attributes:
        manifest: of the repository.
        batch_size: images that the image encoder takes at once.
    """

    def __init__(
        self,
        manifest: Manifest,
        vocabulary: Vocabulary,
        *,
        upscale: Model,
        image_encoder: Model,
        text: TextModel,
        scorer: ZeroShotClassifier,
        open_robust_encoder: Callable[[], Model],
    ) -> None:
        self.manifest, self._routes = manifest, manifest.routes
        # The same labels come with every batch.
        self._warn_of_unknown = lru_cache(maxsize=8)(partial(unknown_warnings, vocabulary=vocabulary))
        self.batch_size = max(1, image_encoder.spec.max_batch_size)
        self._upscale, self._image_encoder = upscale, image_encoder
        self._text, self._scorer = text, scorer
        # Opened by the first image that needs it: it is larger than all the rest.
        self._find_robust_encoder = cache(open_robust_encoder)
        self._decoders = ThreadPoolExecutor(count_cores(), thread_name_prefix="decode")
        self._lock = threading.Lock()

    @classmethod
    def load(cls, repository: Path, *, profile: str | None = None, threads: int | None = None) -> Pipeline:
        """Open the models of a repository.

        Args:
            repository: a model repository that export has filled.
            profile: as `clipsr-serve up --profile`; None takes what suits this processor.
            threads: of each engine; None takes all cores of this process.

        Raises:
            ArtifactError: the manifest, or another file that export writes, is missing or damaged.
            ModelLoadError: a graph cannot be run here.
            LaunchError: there is no such profile.
        """
        manifest = read_manifest(repository)
        requested = profile or default_profile(repository, triton_kind="embedded")
        config_name = choose_profile(requested, repository, manifest, cpu_flags=read_cpu_flags()).config_name
        upscale, image_encoder, text_encoder = (
            open_model(repository, name, config_name=config_name, threads=threads)
            for name in ("upscale", "image_encoder", "text_encoder")
        )
        parameters = read_model_args(repository, "similarity", config_name=config_name)
        text = TextModel(
            repository,
            manifest,
            encode=_TextEncoder(text_encoder),
            max_batch_size=read_integer_parameter(parameters, "text_encoder_max_batch_size"),
        )
        scorer = build_zero_shot_classifier(
            repository,
            manifest,
            text,
            max_entries=read_integer_parameter(parameters, "text_cache_max_entries"),
            max_bytes=read_integer_parameter(parameters, "label_space_cache_max_bytes"),
        )
        taught = find_words(manifest.taught_names, itertools.chain.from_iterable(manifest.template_sets.values()))
        return cls(
            manifest,
            load_vocabulary(repository, taught),
            upscale=upscale,
            image_encoder=image_encoder,
            text=text,
            scorer=scorer,
            open_robust_encoder=partial(
                open_model, repository, "robust_encoder", config_name=config_name, threads=threads
            ),
        )

    def decode(
        self, contents: Sequence[bytes], *, fit: str = "", route: RouteTaken | None = None
    ) -> list[DecodedImage | Exception]:
        """Decode image files, on all cores.

        Args:
            contents: image files.
            fit: `center_crop`, `squash` or `pad`; empty for the checkpoint's own.
            route: the route to take; None chooses by the manifest's rules.

        Returns:
            for each file what the engines take, or why not: an InputError where the file is at fault.
        """
        return list(self._decoders.map(lambda content: self._try_decode(content, fit, route), contents))

    def _try_decode(self, content: bytes, fit: str, route: RouteTaken | None) -> DecodedImage | Exception:
        try:
            image = read_image(content)
            size_hw = (image.height, image.width)
            taken = route or self._routes.choose(content, size_hw, lambda: np.asarray(image))
            tensors = self._make_tensors(image, fit, taken)
        # As in Triton, whatever one image provokes is its own answer only.
        except Exception as error:
            return error
        return DecodedImage(size_hw=size_hw, route=taken, tensors=tensors)

    def _make_tensors(self, image: Image.Image, fit: str, route: RouteTaken) -> dict[str, NDArray[Any]]:
        encoder = self.manifest.image_encoder
        fit = parse_fit(fit.encode(), default=FIT_OF_RESIZE_MODE[encoder.resize_mode])
        if route == "native":
            pixels = make_native_pixels(
                image,
                fit=fit,
                image_size_px=encoder.image_size_px,
                interpolation=encoder.interpolation,
                fill_color=encoder.fill_color,
            )
            return {"pixels": pixels[None]}
        sizes_px = self.manifest.upscaler.canvas_sizes_px
        canvas, box = make_canvas(image, fit=fit, canvas_sizes_px=sizes_px, fill_color=encoder.fill_color)
        return {"canvas": canvas[None], "box": box[None]}

    def render(self, images: Sequence[DecodedImage | Exception]) -> list[NDArray[np.uint8] | Exception]:
        """Make what the image encoder sees: UINT8 [1, 3, R, R] of each image."""
        canvases = [image.tensors for image in images if not isinstance(image, Exception) and image.route == "upscaled"]
        upscaled = iter(self._run(self._upscale, canvases, "pixels"))
        pixels: list[NDArray[np.uint8] | Exception] = []
        for image in images:
            if isinstance(image, Exception):
                pixels.append(image)
            else:
                pixels.append(image.tensors["pixels"] if image.route == "native" else next(upscaled))
        return pixels

    def encode(self, pixels: Sequence[NDArray[np.uint8] | Exception]) -> list[NDArray[np.float32] | Exception]:
        """Embed what `render` gave: FP32 [1, D] of each image, L2-normalized."""
        sound = [{"pixels": row} for row in pixels if not isinstance(row, Exception)]
        embedded = iter(self._run(self._image_encoder, sound, "image_embedding"))
        return [row if isinstance(row, Exception) else _check_finite(next(embedded)) for row in pixels]

    def encode_robust(self, pixels: Sequence[NDArray[np.uint8] | Exception]) -> list[RobustEmbedding | Exception]:
        """Embed what `render` gave by the robust encoder, which the manifest must have.

        Raises:
            ModelLoadError: its graph cannot be run here.
        """
        sound = [{"pixels": row} for row in pixels if not isinstance(row, Exception)]
        with self._lock:
            answers = iter(self._find_robust_encoder().run_each(sound) if sound else [])
        return [row if isinstance(row, Exception) else _read_robust(next(answers)) for row in pixels]

    def looks_damaged(self, embedding: NDArray[np.float32]) -> bool:
        """Judge a plain embedding [1, D], where the manifest has a head that can."""
        head = None if self.manifest.robust_encoder is None else self.manifest.robust_encoder.head
        return head is not None and float(np.asarray(head.weight, dtype=np.float32) @ embedding[0]) + head.bias > 0

    def _run(
        self, model: Model, requests: Sequence[Mapping[str, NDArray[Any]]], output: str
    ) -> list[NDArray[Any] | Exception]:
        with self._lock:
            answers = model.run_each(requests)
        return [answer if isinstance(answer, Exception) else answer[output] for answer in answers]

    def score(
        self, image_embedding: NDArray[np.float32], labels: Sequence[str], templates: Sequence[str] = ()
    ) -> Similarities:
        """Compare image embeddings with labels.

        Args:
            image_embedding: FP32 [N, D], L2-normalized, of one image at least.
            labels: K labels, each once.
            templates: prompts with one `{}`, or one published set with `@`; empty for the manifest's own.

        Returns:
            [N, K] each.

        Raises:
            InputError: the labels or templates cannot be used.
            ModelCallError: they could not be embedded.
        """
        space = (_encode(labels), _encode(templates))
        request = SimilarityRequest(image_embedding=image_embedding, spaces=(space,) * len(image_embedding))
        with self._lock:
            (answer,) = self._scorer.score([request])
        if isinstance(answer, ServingError):
            raise answer
        return answer

    def embed_texts(self, texts: Sequence[str], templates: Sequence[str] = ()) -> EmbeddedTexts:
        """Embed texts, each as the mean over the templates.

        Args:
            texts: N texts, which may repeat.
            templates: as `score`.

        Raises:
            InputError: the texts or templates cannot be used.
            ModelCallError: they could not be embedded.
        """
        space = self._text.parse_texts(_encode(texts), _encode(templates))
        with self._lock:
            return EmbeddedTexts(values=self._text.embed(list(space.keys)), is_cut=self._text.find_cut(space))

    def warn_of(
        self, texts: Sequence[str], is_cut: NDArray[np.bool_], *, noun: str, field: str
    ) -> tuple[TextWarning, ...]:
        """Warn of texts that mean little to the model, or of which it does not see the end, as the service does.

        Args:
            texts: N labels or texts.
            is_cut: BOOL [N].
            noun: what one is called, such as "label".
            field: path of one in the request, with {} for its place.
        """
        length = self.manifest.text_encoder.context_length
        unknown = self._warn_of_unknown(tuple(texts), noun=noun, field=field)
        return unknown + cut_warnings(texts, is_cut, noun=noun, field=field, context_length=length)


@dataclass(frozen=True)
class _TextEncoder:
    """Runs the text encoder on INT64 [texts, L]; what it raises is what its callers expect of Triton's."""

    model: Model

    def __call__(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        try:
            embedding = self.model.session.run({"tokens": tokens})["text_embedding"]
        # Runtimes raise their own types.
        except Exception as error:
            raise ModelCallError(f"text_encoder failed: {error}") from error
        if isinstance(found := _check_finite(embedding), Exception):
            raise ModelCallError(str(found)) from found
        return found


def _read_robust(answer: Mapping[str, NDArray[Any]] | Exception) -> RobustEmbedding | Exception:
    if isinstance(answer, Exception):
        return answer
    for values in answer.values():
        if isinstance(fault := _check_finite(values), Exception):
            return fault
    return RobustEmbedding(
        embedding=answer["image_embedding"],
        degradation_cosine=answer["degradation_cosine"][0],
        degradation_probability=answer["degradation_probability"][0],
    )


def _encode(texts: Sequence[str]) -> tuple[bytes, ...]:
    return tuple(text.encode() for text in texts)


def _check_finite(values: Any) -> Any:
    """Return an array, or the exception that it was; a damaged model's numbers become one."""
    if isinstance(values, Exception) or np.isfinite(values).all():
        return values
    return ModelOutputError("the model's embeddings are not finite numbers: its weights are damaged, or diverged")
