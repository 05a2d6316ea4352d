"""What a request may hold."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from clipsr.v1 import types_pb2

_MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class LibraryLimits:
    """Limits of image libraries, enforced before anything is computed and published by GetModelInfo.

    Attributes:
        max_libraries: on the server; listing them opens each.
        max_name_bytes: of a library's name, which is a folder's name too.
        max_top_k: images that a search returns; more is a list, and ListImages has pages.
        max_page_size: images of a page.
        max_source_bytes: UTF-8 bytes of a source; a path of Linux has at most as many.
        max_tags: tags of an image.
        max_tag_bytes: UTF-8 bytes of a tag.
        max_metadata: metadata values of an image.
        max_metadata_value_bytes: UTF-8 bytes of a metadata value.
        max_thumbnail_side_px: longest side of a thumbnail.
        max_original_bytes: bytes of a file that is kept; low-resolution images are far smaller, and a table whose rows
            are larger is slow to compact.
        max_delete_hashes: hashes in one DeleteImages or UpdateImages request.
    """

    max_libraries: int = 64
    max_name_bytes: int = 64
    max_top_k: int = 1_000
    max_page_size: int = 1_000
    max_source_bytes: int = 4_096
    max_tags: int = 64
    max_tag_bytes: int = 128
    max_metadata: int = 64
    max_metadata_value_bytes: int = 1_024
    max_thumbnail_side_px: int = 512
    max_original_bytes: int = _MIB
    max_delete_hashes: int = 10_000

    def to_proto(self) -> types_pb2.LibraryLimits:
        """Return the message within Limits; field names are equal by design."""
        return types_pb2.LibraryLimits(**{limit.name: getattr(self, limit.name) for limit in fields(self)})


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
        max_restore_pixels: rows times columns of one image to restore; in 5 steps a megapixel takes some 10 s on two
            cores.
        max_embed_texts: texts in one EmbedTexts request; none of them is cached.
        max_stream_images: images of one stream in the server at once; twice the places in Triton, so that answers on
            their way do not leave any empty. AddImages takes twice as many, as half of them wait for their commit.
        library: limits of image libraries; None where there are none.
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
    max_restore_pixels: int = 1_048_576
    max_embed_texts: int = 1_024
    max_stream_images: int = 64
    library: LibraryLimits | None = None

    def __post_init__(self) -> None:
        """Refuse limits that would refuse every request.

        Raises:
            ValueError: a limit is below 1.
        """
        for name, limit in self._numbers().items():
            if limit < 1:
                raise ValueError(f"{name} must be at least 1")

    def to_proto(self) -> types_pb2.Limits:
        """Return the message that GetModelInfo publishes; field names are equal by design."""
        limits: dict[str, Any] = self._numbers()
        return types_pb2.Limits(**limits, library=self.library.to_proto() if self.library else None)

    def _numbers(self) -> dict[str, int]:
        return {limit.name: getattr(self, limit.name) for limit in fields(self) if limit.name != "library"}
