"""The only module that knows Triton: tensors of the ensembles, `embed_text`, `upscale` and `restore`, and its errors.

The tensors are those of docs/tensor-contract.md, with a batch dimension in front: the images of a group, or N tiles.
"""

# tritonclient has no annotations; what leaves this module has.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from clipsr_gateway._backend.coalescer import RequestCoalescer
from clipsr_gateway._backend.failures import error_of_failure
from clipsr_gateway._backend.outputs import (
    DEGRADATION_OUTPUTS,
    read_bool,
    read_damage,
    read_float,
    read_picture,
    read_pixels,
    read_similarities,
)
from clipsr_gateway._backend.protocol import Encoder, Fit, ImageFeatures, Route, Similarities, TextEmbeddings
from clipsr_gateway._manifest import Manifest
from clipsr_gateway._tracing import outgoing_headers
from clipsr_gateway.errors import (
    BackendFaultError,
    GatewayError,
)

# The ensemble that serves each route.
MODELS: dict[Route, str] = {"upscaled": "classify", "native": "classify_native"}

# The same with `image_embedding` and `pixels`; Triton wants all outputs of these to be asked for.
DETAILED_MODELS: dict[Route, str] = {"upscaled": "classify_detailed", "native": "classify_native_detailed"}

# Their first parts.
EMBED_IMAGE_MODELS: dict[Route, str] = {"upscaled": "embed_image", "native": "embed_image_native"}

# Of all of these, with `robust_encoder` in the place of `image_encoder`; `degradation_*` must be asked for, too.
_ROBUST_SUFFIX = "_robust"

# Of the first, with `image_embedding`, which must be asked for.
_AUTO_SUFFIX = "_auto"

EMBED_TEXT_MODEL = "embed_text"
SIMILARITY_MODEL = "similarity"
RESTORE_MODEL = "restore"

# `upscale` is a part of the ensembles, which are ready when their parts are.
_READY_MODELS = (*MODELS.values(), *DETAILED_MODELS.values(), *EMBED_IMAGE_MODELS.values(), EMBED_TEXT_MODEL)

# Images of a call that are ready at the same moment share a request: a request costs the gateway, Triton and each model
# more than decoding such an image does. `decode` works through a request one by one in one of its two processes, so
# groups stay small, and so do their images: none above the largest canvas, which is 128 px by default.
_GROUP_LIMIT = 8
_GROUP_SIDE_PX = 128
# Each image brings all labels and templates; beyond this the strings outweigh the request.
_GROUP_STRINGS = 4096

_CHANNEL_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_send_message_length", -1),  # Triton has no limit; the gateway's own limits are checked before
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),  # Triton runs beside the gateway; `http_proxy` of the environment is for others
    ("grpc.use_local_subchannel_pool", 1),  # another backend's failed connection is nothing to this one
    ("grpc.keepalive_time_ms", 20_000),  # notices a Triton that died without closing the connection
    ("grpc.keepalive_timeout_ms", 10_000),
    # gRPC's default backs off up to two minutes: far too long after a restart of Triton beside us.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # in truth the time that an attempt may take; a busy machine needs some
    ("grpc.max_reconnect_backoff_ms", 500),
]


def optional_models(manifest: Manifest) -> tuple[str, ...]:
    """Return the models that this repository has beside those of every repository, and that calls need."""
    routed = (MODELS, DETAILED_MODELS, EMBED_IMAGE_MODELS)
    robust = [f"{name}{_ROBUST_SUFFIX}" for models in routed for name in models.values() if manifest.degradation_kinds]
    auto = [f"{name}{_AUTO_SUFFIX}" for name in MODELS.values() if manifest.damage_head is not None]
    return (*robust, *auto, *(() if manifest.restorer is None else ("denoise", RESTORE_MODEL)))


class _Connection:
    """Sends requests, and gives every failure its type."""

    def __init__(self, *, target: str, client: InferenceServerClient) -> None:
        self._target = target
        self._client = client

    async def infer(
        self,
        model_name: str,
        *,
        inputs: Sequence[InferInput],
        outputs: Sequence[str],
        request_id: str,
        timeout_s: float | None,
    ) -> Any:
        """Run a model. Cancelling the caller cancels the request in Triton.

        Raises:
            BackendUnavailableError: Triton does not answer, or has not loaded the model.
            DeadlineExceededError: `timeout_s` passed.
            ImageRejectedError, InvalidRequestError: a model refused the image, or something else of the request.
            BackendFaultError: anything else.
        """
        try:
            return await self._client.infer(
                model_name,
                inputs=inputs,
                outputs=[InferRequestedOutput(name) for name in outputs],
                request_id=request_id,
                client_timeout=timeout_s,
                headers=outgoing_headers(),
            )
        except InferenceServerException as error:
            raise _typed(error, target=self._target, model_name=model_name) from error


class TritonBackend:
    """Computes through a Triton server's gRPC endpoint.

    Must be created inside a running event loop and used there only (`encode_labels` excepted).

    Args:
        target: HOST:PORT of Triton's gRPC endpoint.
        optional_models: those that must be ready beside the models of every repository.
    """

    def __init__(self, target: str, *, optional_models: Sequence[str] = ()) -> None:
        self._target = target
        self._ready_models = (*_READY_MODELS, *optional_models)
        self._client = InferenceServerClient(target, channel_args=_CHANNEL_OPTIONS)
        self._connection = _Connection(target=target, client=self._client)
        self._coalescer = RequestCoalescer[bytes, ImageFeatures]()

    @property
    def target(self) -> str:
        """HOST:PORT of Triton's gRPC endpoint."""
        return self._target

    async def is_ready(self, *, timeout_s: float) -> bool:
        """Say whether the server and all models are ready; False on any error."""
        try:
            if not await self._client.is_server_ready(client_timeout=timeout_s):
                return False
            for model_name in self._ready_models:
                if not await self._client.is_model_ready(model_name, client_timeout=timeout_s):
                    return False
        except InferenceServerException:
            return False
        return True

    def encode_labels(self, *, labels: Sequence[str], templates: Sequence[str]) -> TritonLabels:
        """Serialize labels and templates once for all images of a call."""
        return TritonLabels(connection=self._connection, labels=labels, templates=templates)

    async def embed_image(
        self,
        image: bytes,
        *,
        fit: Fit,
        route: Route,
        request_id: str,
        timeout_s: float | None,
        size_hw: tuple[int, int] | None = None,
        encoder: Encoder = "plain",
    ) -> ImageFeatures:
        """Embed one image; see InferenceBackend.embed_image. Cancelling the caller cancels the request in Triton."""
        is_robust = encoder == "robust"
        model_name = EMBED_IMAGE_MODELS[route] + (_ROBUST_SUFFIX if is_robust else "")

        async def send(images: Sequence[bytes]) -> list[ImageFeatures]:
            result = await self._connection.infer(
                model_name,
                inputs=_image_inputs(images, fit),
                outputs=["image_embedding", *(DEGRADATION_OUTPUTS if is_robust else ())],
                request_id=request_id,
                timeout_s=timeout_s,
            )
            embeddings = read_float(result, "image_embedding", rank=1, count=len(images))
            damage = read_damage(result, len(images)) if is_robust else [None] * len(images)
            pairs = zip(embeddings, damage, strict=True)
            return [ImageFeatures(embedding=embedding, damage=each) for embedding, each in pairs]

        if not _may_share(size_hw):
            return (await send([image]))[0]
        return await self._coalescer.submit((request_id, model_name, fit, size_hw), image, send, max_items=_GROUP_LIMIT)

    async def embed_texts(
        self, texts: Sequence[str], *, templates: Sequence[str], request_id: str, timeout_s: float | None
    ) -> TextEmbeddings:
        """Embed texts; see InferenceBackend.embed_texts. Cancelling the caller cancels the request in Triton."""
        result = await self._connection.infer(
            EMBED_TEXT_MODEL,
            inputs=[_bytes_input("texts", [texts]), _bytes_input("templates", [templates])],
            outputs=["text_embedding", "text_is_cut"],
            request_id=request_id,
            timeout_s=timeout_s,
        )
        values = read_float(result, "text_embedding", rank=2)[0]
        return TextEmbeddings(values=values, is_cut=read_bool(result, "text_is_cut")[0])

    async def max_tiles(self, model_name: str, *, timeout_s: float | None) -> int:
        """Return `max_batch_size` of an upscaler, as it is configured now.

        Raises:
            BackendUnavailableError, DeadlineExceededError, BackendFaultError: as TritonLabels.classify.
        """
        try:
            answer = cast("Any", await self._client.get_model_config(model_name, client_timeout=timeout_s))
        except InferenceServerException as error:
            raise _typed(error, target=self._target, model_name=model_name) from error
        size = int(answer.config.max_batch_size)
        if size < 1:
            raise BackendFaultError(f"model {model_name!r} has max_batch_size {size}, and the contract wants batches")
        return size

    async def upscale(
        self,
        model_name: str,
        canvas: npt.NDArray[np.uint8],
        box: npt.NDArray[np.float32],
        *,
        request_id: str,
        timeout_s: float | None,
    ) -> npt.NDArray[np.uint8]:
        """Render tiles; see InferenceBackend.upscale. Cancelling the caller cancels the request in Triton."""
        result = await self._connection.infer(
            model_name,
            inputs=[_tensor_input("canvas", "UINT8", canvas), _tensor_input("box", "FP32", box)],
            outputs=["pixels"],
            request_id=request_id,
            timeout_s=timeout_s,
        )
        return read_pixels(result, count=len(canvas))

    async def restore(
        self,
        lq: npt.NDArray[np.uint8],
        context: npt.NDArray[np.float32],
        *,
        steps: int,
        seed: int,
        request_id: str,
        timeout_s: float | None,
    ) -> npt.NDArray[np.uint8]:
        """Restore a picture; see InferenceBackend.restore. Cancelling the caller stops it at its next tile."""
        result = await self._connection.infer(
            RESTORE_MODEL,
            inputs=[
                _tensor_input("lq", "UINT8", lq[None]),
                *(_tensor_input(name, "FP32", context[None]) for name in ("content", "degradation")),
                _tensor_input("steps", "INT32", np.array([[steps]], dtype=np.int32)),
                _tensor_input("seed", "UINT64", np.array([[seed]], dtype=np.uint64)),
            ],
            outputs=["restored"],
            request_id=request_id,
            timeout_s=timeout_s,
        )
        return read_picture(result, "restored", shape=lq.shape)

    async def close(self) -> None:
        """Close the channel."""
        await self._client.close()


class TritonLabels:
    """Labels and templates as tensors that any number of requests share."""

    def __init__(self, *, connection: _Connection, labels: Sequence[str], templates: Sequence[str]) -> None:
        self._connection = connection
        self._labels = labels
        self._templates = templates
        self._coalescer = RequestCoalescer[bytes, Similarities]()
        self._max_group = max(1, min(_GROUP_LIMIT, _GROUP_STRINGS // (len(labels) + len(templates))))
        self._inputs = self._encode(1)
        self._group_inputs: tuple[int, list[InferInput]] = (1, self._inputs)

    async def classify(
        self,
        image: bytes,
        *,
        fit: Fit,
        route: Route,
        request_id: str,
        timeout_s: float | None,
        size_hw: tuple[int, int] | None = None,
        encoder: Encoder = "plain",
        wants_embedding: bool = False,
        wants_pixels: bool = False,
        wants_cut: bool = False,
        wants_none: bool = False,
    ) -> Similarities:
        """Run one ensemble on one image; see EncodedLabels.classify."""
        is_detailed, is_robust = wants_embedding or wants_pixels, encoder == "robust"
        is_judged = encoder == "auto"
        model_name = (DETAILED_MODELS if is_detailed else MODELS)[route]
        if is_robust or (is_judged and not is_detailed):
            model_name += _ROBUST_SUFFIX if is_robust else _AUTO_SUFFIX

        async def send(images: Sequence[bytes]) -> list[Similarities]:
            count = len(images)
            result = await self._connection.infer(
                model_name,
                inputs=[*_image_inputs(images, fit), *self._make_inputs(count)],
                outputs=[
                    *("cosine", "probability"),
                    *(("label_is_cut",) if wants_cut else ()),
                    *(("none_probability",) if wants_none else ()),
                    *(("image_embedding",) if is_detailed or is_judged else ()),
                    *(("pixels",) if is_detailed else ()),
                    *(DEGRADATION_OUTPUTS if is_robust else ()),
                ],
                request_id=request_id,
                timeout_s=timeout_s,
            )
            return read_similarities(
                result,
                count=count,
                wants_embedding=wants_embedding or is_judged,
                wants_pixels=wants_pixels,
                wants_cut=wants_cut,
                wants_none=wants_none,
                is_robust=is_robust,
            )

        if not _may_share(size_hw):
            return (await send([image]))[0]
        key = (request_id, model_name, fit, size_hw, wants_embedding, wants_pixels, wants_cut, wants_none)
        return await self._coalescer.submit(key, image, send, max_items=self._max_group)

    def _make_inputs(self, count: int) -> list[InferInput]:
        """Labels and templates for a number of images; kept for one image and for the group that was last."""
        if count == 1:
            return self._inputs
        if count != self._group_inputs[0]:
            self._group_inputs = (count, self._encode(count))
        return self._group_inputs[1]

    def _encode(self, count: int) -> list[InferInput]:
        return [
            _bytes_input("labels", [self._labels] * count),
            _bytes_input("templates", [self._templates] * count),
        ]

    async def warm(self, *, embed_dim: int, request_id: str, timeout_s: float | None) -> None:
        """Compare the labels with a vector that is no image's; see EncodedLabels.warm."""
        vector = np.zeros((1, embed_dim), dtype=np.float32)
        vector[0, 0] = 1
        await self._connection.infer(
            SIMILARITY_MODEL,
            inputs=[
                _tensor_input("image_embedding", "FP32", vector),
                *self._make_inputs(1),
            ],
            outputs=["cosine"],
            request_id=request_id,
            timeout_s=timeout_s,
        )


def _may_share(size_hw: tuple[int, int] | None) -> bool:
    """Whether an image may go with others of its size; all of one size get the canvas that each would have alone."""
    return size_hw is not None and max(size_hw) <= _GROUP_SIDE_PX


def _image_inputs(images: Sequence[bytes], fit: Fit) -> list[InferInput]:
    return [_bytes_input("image", [[image] for image in images]), _bytes_input("fit", [[fit]] * len(images))]


def _bytes_input(name: str, rows: Sequence[Sequence[str] | Sequence[bytes]]) -> InferInput:
    """Return a BYTES tensor of rows of equal length; strings are encoded in UTF-8."""
    tensor = np.empty((len(rows), len(rows[0])), dtype=np.object_)
    for number, values in enumerate(rows):
        tensor[number, :] = values
    return _tensor_input(name, "BYTES", tensor)


def _tensor_input(name: str, data_type: str, tensor: npt.NDArray[Any]) -> InferInput:
    return InferInput(name, list(tensor.shape), data_type).set_data_from_numpy(tensor)


def _typed(error: InferenceServerException, *, target: str, model_name: str) -> GatewayError:
    status = str(error.status()).removeprefix("StatusCode.")
    return error_of_failure(status, str(error.message()), target=target, model_name=model_name)
