"""What a request may hold."""

from __future__ import annotations

from dataclasses import dataclass, fields

from clipsr.v1 import types_pb2

__all__ = ["Limits"]

_MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one request, enforced before anything is computed and published by GetModelInfo.

    Attributes:
        max_images: images in one request; at 30 images/s on two cores a full request takes under 10 s.
        max_image_bytes: size of one image file; a camera's full-size JPEG fits.
        max_image_pixels: rows times columns, read from the header; 8192 x 8192 is 200 MB once decoded to RGB.
        max_labels: labels in one request.
        max_label_bytes: UTF-8 bytes of one label, and of one template: both end up in the same prompt, and an
            unlimited template times 10,000 labels would let a small request fill the memory.
        max_templates: templates in one request; the ImageNet ensemble has 80.
        max_texts: labels times templates, each one pass through the text encoder when not cached.
        max_message_bytes: one gRPC message, in and out.
        max_output_pixels: rows times columns of one upscaled image; 4096 x 4096 without transparency always fits one
            message as PNG, and on two cores takes a minute or more.
        max_embed_texts: texts in one EmbedTexts request; none of them is cached.
        max_stream_images: images of one stream in the server at once; twice the places in Triton, so that answers on
            their way do not leave any empty.
    """

    max_images: int = 256
    max_image_bytes: int = 16 * _MIB
    max_image_pixels: int = 67_108_864
    max_labels: int = 10_000
    max_label_bytes: int = 1_024
    max_templates: int = 128
    max_texts: int = 200_000
    max_message_bytes: int = 64 * _MIB
    max_output_pixels: int = 16_777_216
    max_embed_texts: int = 1_024
    max_stream_images: int = 64

    def __post_init__(self) -> None:
        """Refuses limits that would refuse every request.

        Raises:
            ValueError: a limit is below 1.
        """
        for limit in fields(self):
            if getattr(self, limit.name) < 1:
                raise ValueError(f"{limit.name} must be at least 1")

    def to_proto(self) -> types_pb2.Limits:
        """Returns the message that GetModelInfo publishes; field names are equal by design."""
        return types_pb2.Limits(**{limit.name: getattr(self, limit.name) for limit in fields(self)})
