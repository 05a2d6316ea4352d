"""What the client takes and returns, as plain values."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, Protocol

from clipsr._feature_types import NoneOfTheseInfo, RestorerInfo


class PixelSource(Protocol):
    """A Pillow image, or an array such as NumPy's: uint8, [height, width] or [height, width, channels], RGB."""

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """What both have in common."""
        ...


ImageSource = bytes | str | os.PathLike[str] | BinaryIO | PixelSource
"""An image: a file's bytes, its path, or an open binary file, which is read from where it stands and not closed; or a
Pillow image or array of uint8 (grey, grey and alpha, RGB or RGBA), which is sent as PNG."""

Fit = Literal["auto", "center_crop", "squash"]
"""How an image that is not square is fitted: as the model was trained ("auto"), the largest centred square, or all of
it at a changed aspect ratio."""

Route = Literal["auto", "upscaled", "native"]
"""The path to the image encoder that a caller asks for; "auto" lets the service choose for each image."""

RouteTaken = Literal["upscaled", "native"]
"""The path that an image took: super-resolution, or CLIP's own bicubic resize."""

Encoder = Literal["plain", "robust", "auto"]
"""What a caller wants images embedded by: the model's own encoder, or the same steered past the damage, which it names;
"auto" takes the second for images that look damaged to the first."""

EncoderTaken = Literal["plain", "robust"]
"""What embedded an image."""

UpscaleRecipe = Literal["clean", "robust"]
"""How an image is upscaled; see `Client.upscale`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifyOptions:
    """What is asked about every image of a call: the keyword arguments of `Client.classify`, held as one value.

    Attributes:
        labels: what the images may show; empty with `label_set`.
        label_set: name of a label set that the model publishes, instead of labels.
        templates: prompts with one `{}`, or names of published sets (`@simple`); empty for the model's own.
        top_k: how many predictions an image gets, best first; 0 for all labels.
        fit: how images that are not square are fitted; "auto" is the model's own way.
        route: "upscaled" or "native" forces one; "auto" lets the service choose by the image.
        encoder: "robust" for images that may be blurred, dark or noisy, where ModelInfo.degradation_kinds offers it;
            "auto" for those of them that look so, where ModelInfo.has_auto_encoder offers it.
        min_cosine: an image whose best label has a smaller cosine shows none of them; None: never.
        min_probability: likewise by probability.
        none_of_these: an image shows none of the labels where the model's own, calibrated rule says so; see
            ModelInfo.none_of_these. Needs no threshold.
        return_embedding: whether the image's embedding is returned.
        return_encoder_input: whether a PNG of what the encoder saw is returned.
    """

    labels: Sequence[str] = ()
    label_set: str = ""
    templates: Sequence[str] = ()
    top_k: int = 5
    fit: Fit = "auto"
    route: Route = "auto"
    encoder: Encoder = "plain"
    min_cosine: float | None = None
    min_probability: float | None = None
    none_of_these: bool = False
    return_embedding: bool = False
    return_encoder_input: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """One label's standing.

    Attributes:
        label: as the caller wrote it.
        cosine: similarity of image and text embedding, in [-1, 1].
        probability: softmax over all labels of the request, in [0, 1]; a sigmoid for each label where
            ModelInfo.scoring_function says so.
    """

    label: str
    cosine: float
    probability: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Degradation:
    """How likely an image is damaged in one way.

    Attributes:
        kind: one of ModelInfo.degradation_kinds, such as "noisy"; "clean" is none.
        cosine: similarity of what is wrong with the image and what stands for the kind, in [-1, 1].
        probability: softmax over all kinds, in [0, 1].
    """

    kind: str
    cosine: float
    probability: float


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerWarning:
    """Something doubtful about what was asked; the answer is what the model makes of it all the same.

    Attributes:
        reason: for programs: "TEXT_CUT" says that a text is longer than the model reads,
            "LABEL_WITHOUT_KNOWN_TOKEN" that the model knows no word of it, "LABEL_NOT_TAUGHT" that it was never taught
            some of its words (QUERY_… of a search, TEXT_… of a text to embed). There may be more.
        message: for people: what is doubtful and what to do.
        field: path in the request, such as "options.label_space.labels[3]".
    """

    reason: str
    message: str
    field: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Classification:
    """What is known about one image.

    Attributes:
        predictions: best first, ties in the order of the labels.
        input_hw: rows and columns of the image, after EXIF orientation, in pixels.
        route: the path taken.
        queue_ms: waiting in the gateway.
        inference_ms: from the gateway to Triton and back, Triton's own queues included.
        model_digest: of the model that answered, equal to ModelInfo.digest.
        none_of_these: the image shows none of the labels by a rule that was asked for; the predictions are there all
            the same.
        none_probability: that it shows none of them, in [0, 1]; None unless `none_of_these` asked for it.
        embedding: the image's, L2-normalized; None unless asked for.
        encoder_input: a PNG of what the image encoder saw; None unless asked for.
        warnings: what is doubtful about the labels and templates; the same for all images that were asked about at
            once.
        encoder: what embedded the image.
        degradations: what may be wrong with the image, most likely first; empty from the plain encoder.
    """

    predictions: tuple[Prediction, ...]
    input_hw: tuple[int, int]
    route: RouteTaken
    queue_ms: float
    inference_ms: float
    model_digest: str
    none_of_these: bool = False
    none_probability: float | None = None
    embedding: tuple[float, ...] | None = None
    encoder_input: bytes | None = None
    warnings: tuple[AnswerWarning, ...] = ()
    encoder: EncoderTaken = "plain"
    degradations: tuple[Degradation, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class FailedImage:
    """Why one image of a request that went well otherwise has no predictions.

    Attributes:
        code: name of the gRPC status code, such as "INVALID_ARGUMENT".
        reason: for programs, such as "IMAGE_TRUNCATED"; empty if the service gave none.
        message: for people.
    """

    code: str
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CallerLimits:
    """What the API key of this caller allows; beyond it calls end with RateLimitedError.

    Attributes:
        items_per_second: images, or texts of embed_texts(), a second on average; 0 is unlimited.
        burst: images or texts that may come at once before the average counts; 0 where items_per_second is.
        max_concurrent_calls: calls in progress at once; 0 is unlimited.
    """

    items_per_second: float
    burst: int
    max_concurrent_calls: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LibraryLimits:
    """What libraries may hold, and what one request about them may ask for.

    Attributes:
        max_libraries: libraries on the server.
        max_name_bytes: bytes of a library's name.
        max_top_k: images that a search returns.
        max_page_size: images of one page.
        max_source_bytes: UTF-8 bytes of an image's source.
        max_tags: tags of one image.
        max_tag_bytes: UTF-8 bytes of one tag.
        max_metadata: metadata values of one image.
        max_metadata_value_bytes: UTF-8 bytes of one of them.
        max_thumbnail_side_px: longest side of a library's thumbnails.
        max_original_bytes: bytes of an image file that is kept; of larger ones only thumbnail and vector are.
        max_delete_hashes: images that one request deletes or changes by their hashes.
    """

    max_libraries: int
    max_name_bytes: int
    max_top_k: int
    max_page_size: int
    max_source_bytes: int
    max_tags: int
    max_tag_bytes: int
    max_metadata: int
    max_metadata_value_bytes: int
    max_thumbnail_side_px: int
    max_original_bytes: int
    max_delete_hashes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What the service accepts in one request.

    Attributes:
        max_images: images.
        max_image_bytes: bytes of one image file.
        max_image_pixels: rows times columns of one decoded image.
        max_labels: labels.
        max_label_bytes: UTF-8 bytes of one label.
        max_templates: prompt templates.
        max_texts: labels times templates.
        max_message_bytes: bytes of the whole request.
        max_output_pixels: rows times columns of one upscaled image.
        max_embed_texts: texts to embed.
        max_stream_images: images of one stream that are in the service at once.
        caller: what this caller's API key allows; None where the service asks for none.
        library: what libraries may hold; None where the service keeps none.
        max_restore_pixels: rows times columns of one image to restore; 0 where the service cannot restore.
    """

    max_images: int
    max_image_bytes: int
    max_image_pixels: int
    max_labels: int
    max_label_bytes: int
    max_templates: int
    max_texts: int
    max_message_bytes: int
    max_output_pixels: int
    max_embed_texts: int = 0
    max_stream_images: int = 0
    caller: CallerLimits | None = None
    library: LibraryLimits | None = None
    max_restore_pixels: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """One file that the service runs.

    Attributes:
        path: inside the model repository.
        sha256: lower-case hexadecimal.
        size_bytes: its size.
    """

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RouteRule:
    """The route that small images of one kind take by themselves, and what it was chosen by.

    Attributes:
        max_side_px: applies up to this shorter side, above that of the rules before.
        is_lossy: applies to JPEG, lossy WebP, AVIF and HEIC files; otherwise to all others.
        route: "upscaled" or "native".
        upscaled_agreement: how often super-resolution answers a damaged copy of a photo as the photo is answered.
        native_agreement: likewise the native route.
        n_images: copies that both were measured on.
        max_noise: applies up to this estimated standard deviation of the noise in the colours, in levels of 255, above
            that of the rule before with this size; None to any.
    """

    max_side_px: int
    is_lossy: bool
    route: RouteTaken
    upscaled_agreement: float
    native_agreement: float
    n_images: int
    max_noise: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """What answers, and what it accepts.

    Attributes:
        name: of the exported model.
        digest: "sha256:" and the digest over all artifacts.
        image_architecture: of the image encoder.
        image_size_px: side of the image encoder's square input.
        embed_dim: width of an embedding.
        upscaler_architecture: of the super-resolution model.
        canvas_sizes_px: sides that images of the upscaled route are padded to, ascending.
        native_min_side_px: images whose shorter side is at least this take the native route by themselves, where
            `route_rules` is empty.
        logit_scale: factor on the cosine before softmax or sigmoid.
        logit_bias: term added after the factor.
        scoring_function: "softmax" or "sigmoid".
        context_length: tokens that the text encoder reads; longer texts are cut.
        default_templates: what a request without templates gets.
        label_sets: known labels by name.
        template_sets: known prompt templates by name.
        limits: what a request may hold.
        artifacts: the files that are served.
        gateway_version: version of the gateway.
        route_rules: which route small images take by themselves, as measured at export; what no rule names is native.
        upscale_recipes: what Client.upscale() may be asked for.
        degradation_kinds: of damage that the encoder "robust" tells apart; empty where it is not offered.
        restorer: what Client.restore() does; None where the service restores nothing.
        has_auto_encoder: whether the encoder "auto" is offered.
        none_of_these: the model's own rule for ClassifyOptions.none_of_these; None where it has none.
    """

    name: str
    digest: str
    image_architecture: str
    image_size_px: int
    embed_dim: int
    upscaler_architecture: str
    canvas_sizes_px: tuple[int, ...]
    native_min_side_px: int
    logit_scale: float
    logit_bias: float
    scoring_function: str
    context_length: int
    default_templates: str
    label_sets: Mapping[str, tuple[str, ...]]
    template_sets: Mapping[str, tuple[str, ...]]
    limits: Limits
    artifacts: tuple[Artifact, ...]
    gateway_version: str
    route_rules: tuple[RouteRule, ...] = ()
    upscale_recipes: tuple[UpscaleRecipe, ...] = ()
    degradation_kinds: tuple[str, ...] = ()
    restorer: RestorerInfo | None = None
    has_auto_encoder: bool = False
    none_of_these: NoneOfTheseInfo | None = None
