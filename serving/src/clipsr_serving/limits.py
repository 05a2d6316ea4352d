"""How much one request may hold.

The gateway checks the same limits first and publishes them; they are repeated here because Triton's own ports are
public too.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DEFAULT_LIMITS", "Limits"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Upper bounds of one request.

    Attributes:
        max_image_bytes: size of one image file.
        max_image_pixels: rows times columns; read from the header, before a pixel is decoded.
        max_labels: labels in one request.
        max_label_bytes: UTF-8 bytes of one label or template.
        max_templates: templates in one request, after template sets are replaced by their members.
        max_texts: labels times templates.
    """

    # 16 MiB holds a 12-megapixel camera JPEG many times over; larger files gain nothing at 64-384 px.
    max_image_bytes: int = 16 * 1024 * 1024
    # 8192 x 8192: 256 MiB as Pillow stores RGB, the most that one decoding may take.
    max_image_pixels: int = 8192 * 8192
    # ImageNet-21k fits in three requests; one matrix row each.
    max_labels: int = 10_000
    # Far beyond any text encoder's context length (77 tokens are about 350 bytes).
    max_label_bytes: int = 1_024
    # The published ImageNet set has 80.
    max_templates: int = 128
    # 10,000 labels with 18 templates stay below it; 10,000 with 128 would keep the text encoder busy for an hour.
    max_texts: int = 200_000

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


DEFAULT_LIMITS = Limits()
