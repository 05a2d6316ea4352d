"""The client for code that waits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import grpc

from clipsr import _call_errors, _channel, _codec, _health, _images, _upscale_codec
from clipsr._errors import ServiceError
from clipsr._types import (
    Classification,
    FailedImage,
    Fit,
    ImageSource,
    ModelInfo,
    Route,
    UpscaledImage,
    UpscaleFormat,
)
from clipsr.v1 import classifier_pb2, classifier_pb2_grpc, upscaler_pb2, upscaler_pb2_grpc

__all__ = ["Client"]


class Client:
    """Calls a clipsr service. AsyncClient has the same methods for asyncio.

    It connects with the first call and may be shared by threads.

    Args:
        url: HOST:PORT of the gateway; a host name may stand for several, which share the calls.
        timeout_s: deadline of a call that does not set its own, in seconds.

    Raises:
        InvalidRequestError: `url` is not HOST:PORT.
    """

    def __init__(self, url: str = "localhost:50051", *, timeout_s: float = 30.0) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._channel = grpc.insecure_channel(_channel.target_of(url), options=_channel.channel_options(url))
        self._stub: Any = classifier_pb2_grpc.ClassifierServiceStub(self._channel)
        self._upscaler: Any = upscaler_pb2_grpc.UpscalerServiceStub(self._channel)
        self._check = self._channel.unary_unary(
            _health.CHECK, request_serializer=_health.encode_service, response_deserializer=_health.decode_status
        )

    def classify(
        self,
        images: Sequence[ImageSource],
        labels: Sequence[str] = (),
        *,
        label_set: str = "",
        templates: Sequence[str] = (),
        top_k: int = 5,
        fit: Fit = "auto",
        route: Route = "auto",
        timeout_s: float | None = None,
    ) -> list[Classification | FailedImage]:
        """Classifies images with the caller's own labels, or with a set that the model publishes.

        Images that are too many or too large for one request go in several, one after the other; files are read as
        they are sent. Without images nothing is asked.

        Args:
            images: image files: bytes, paths, or open binary files.
            labels: what to choose from, each once; leave empty to use `label_set`.
            label_set: name of a published set, such as "cifar10"; model_info() lists them.
            templates: prompts with one "{}" where the label goes, or one published set with '@', such as "@cifar";
                empty leaves them to the service.
            top_k: predictions for each image, best first; 0 gives all labels.
            fit: how images that are not square are fitted.
            route: the path to the image encoder.
            timeout_s: deadline of each request, in seconds; None takes the client's.

        Returns:
            One outcome an image, in their order. An image that fails does not fail its neighbours.

        Raises:
            InvalidRequestError: labels, templates or options are wrong.
            ServiceUnavailableError: nobody answers, or the service cannot work at the moment.
            DeadlineError: a request took too long.
            ServiceError: the service failed.
            OSError: a file cannot be read.
            TypeError: an argument that must be a sequence is a single text or image.
        """
        sources = _images.as_sequence(images)
        query = _codec.encode_query(
            labels=labels, label_set=label_set, templates=templates, top_k=top_k, fit=fit, route=route
        )
        outcomes: list[Classification | FailedImage] = []
        for part in _codec.split(_images.read_images(sources), query):
            if isinstance(part, FailedImage):
                outcomes.append(part)
            else:
                response: classifier_pb2.ClassifyResponse = self._call(self._stub.Classify, part, timeout_s)
                outcomes += _codec.decode_results(response, image_count=len(part.images))
        return outcomes

    def upscale(
        self,
        image: ImageSource,
        *,
        scale: float | None = None,
        size_hw: tuple[int, int] | None = None,
        output_format: UpscaleFormat = "png",
        timeout_s: float | None = None,
    ) -> UpscaledImage:
        """Renders an image at a higher resolution.

        Transparency survives, grey images stay grey, and an embedded colour profile is passed on; 16 bits a channel
        become 8. Of an animation the first frame is taken.

        Args:
            image: an image file: bytes, a path, or an open binary file.
            scale: factor on height and width, at least 1, such as 3.5; or give `size_hw`.
            size_hw: rows and columns of the output, each at least the image's own; the aspect ratio may change.
            output_format: the kind of file to return.
            timeout_s: deadline, in seconds; None takes the client's. Large outputs take a minute on a small machine.

        Raises:
            InvalidRequestError: the image, the size or the format is wrong; docs/errors.md lists the reasons.
            ServiceUnavailableError: nobody answers, or the service cannot work at the moment.
            DeadlineError: it took too long.
            ServiceError: the service failed.
            OSError: the file cannot be read.
            TypeError: `image` is none of the three.
        """
        content = _images.read_image(image)
        request = _upscale_codec.encode_upscale(content, scale=scale, size_hw=size_hw, output_format=output_format)
        response: upscaler_pb2.UpscaleResponse = self._call(self._upscaler.Upscale, request, timeout_s)
        return _upscale_codec.decode_upscaled(response)

    def model_info(self, *, timeout_s: float | None = None) -> ModelInfo:
        """Describes the model that answers, and what it accepts.

        Raises:
            ClipsrError: as classify().
        """
        request = classifier_pb2.GetModelInfoRequest()
        return _codec.decode_model_info(self._call(self._stub.GetModelInfo, request, timeout_s))

    def health(self, *, service: str = "", timeout_s: float | None = None) -> str:
        """Asks the standard health service, grpc.health.v1.

        Args:
            service: a full name such as "clipsr.v1.ClassifierService"; "" asks for the server as a whole.
            timeout_s: deadline, in seconds; None takes the client's.

        Returns:
            "SERVING", "NOT_SERVING", "UNKNOWN", or "SERVICE_UNKNOWN" if the server has no such service.

        Raises:
            ClipsrError: as classify(); ServiceUnavailableError if nobody answers.
        """
        try:
            return self._call(self._check, service, timeout_s)
        except ServiceError as error:
            if error.code == grpc.StatusCode.NOT_FOUND.name:
                return _health.SERVICE_UNKNOWN
            raise

    def close(self) -> None:
        """Closes the connection; the client cannot be used afterwards."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, method: Callable[..., Any], request: object, timeout_s: float | None) -> Any:
        allowed_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            return method(request, timeout=allowed_s)
        except grpc.RpcError as error:
            raise _call_errors.of_call(error, url=self._url, timeout_s=allowed_s) from error
