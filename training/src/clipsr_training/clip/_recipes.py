"""Hyperparameters of CLIP training."""

from __future__ import annotations

from dataclasses import dataclass, field

from clipsr_training import prompts
from clipsr_training._bounds import LARGEST, check_bounds
from clipsr_training.clip._rendering import Rendering

OPTIMIZERS = ("adamw", "muon")
_BOUNDS = (
    (("epochs", "batch_size", "accumulate", "validation_per_class"), 1, LARGEST),
    (("unlocked_image_groups", "unlocked_text_layers", "thumbnails"), 0, LARGEST),
    (("lr", "image_lr", "text_lr", "muon_lr", "weight_decay"), 0, LARGEST),
    (("warmup", "cutout", "distillation"), 0, 1),
    (("webp_quality",), 1, 100),
)


@dataclass(frozen=True, kw_only=True)
class ClipRecipe:
    """How a CLIP model is trained.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step and device; each image is contrasted with the texts of its own batch.
        accumulate: batches whose gradients are added before the weights change.
        optimizer: "adamw" for all weights, or "muon" for the image tower's convolutions and AdamW for the rest.
        lr: peak learning rate of AdamW.
        image_lr: that of the image tower, if another.
        text_lr: that of the text tower, if another.
        muon_lr: peak learning rate of Muon, whose updates are scaled to 0.2 of it a weight (arXiv 2502.16982).
        weight_decay: on weights of two and more dimensions.
        warmup: part of the run in which the rate rises linearly; after it the rate falls linearly to zero.
        unlocked_image_groups: None trains the whole image tower; 0 none of it; n the last n groups of layers.
        unlocked_text_layers: likewise of the text tower.
        augmented: flip at random and shift by up to an eighth, as usual on CIFAR.
        cutout: side of the square greyed out in every training image, as a part of the image's side (arXiv 1708.04552).
        validation_per_class: images of every class kept off training; of captions ten times as many, a tenth at most.
        template_set: prompts that training draws from, for classes.
        webp_quality: encode losslessly stored images as WebP of this quality first; see `PairSource`.
        thumbnails: for each image, so many small, damaged pictures of it besides; see `ThumbnailSource`.
        rendering: how images reach the encoder's pixel grid.
        both_routes: CLIP's own resize brings them there as well; an epoch has each image by both.
        on_the_fly: render every image each time it is used, instead of all of them once to a cache on disk.
        teachers: checkpoint folders of models to learn from as well; see `Teachers`.
        distillation: weight of what they say against the contrastive loss, 0 to 1.
        compiled: run the image towers through torch.compile, which needs a C++ compiler.
    """

    epochs: int = 25
    batch_size: int = 32
    accumulate: int = 1
    optimizer: str = "adamw"
    lr: float = 1e-6
    image_lr: float | None = None
    text_lr: float | None = None
    muon_lr: float = 0.01
    weight_decay: float = 0.1
    warmup: float = 0.15
    unlocked_image_groups: int | None = None
    unlocked_text_layers: int | None = None
    augmented: bool = False
    cutout: float = 0.0
    validation_per_class: int = 10
    template_set: str = "cifar"
    webp_quality: int | None = None
    thumbnails: int = 0
    rendering: Rendering = field(default_factory=Rendering)
    both_routes: bool = False
    on_the_fly: bool = False
    teachers: tuple[str, ...] = ()
    distillation: float = 0.9
    compiled: bool = False

    def __post_init__(self) -> None:
        check_bounds(self, _BOUNDS)
        if self.both_routes and self.rendering.upscaler == "none":
            raise ValueError("both routes need an upscaler, bicubic or a file of LIIF weights: without, there is one")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"unknown optimizer {self.optimizer!r}; known: {', '.join(OPTIMIZERS)}")
        if self.template_set not in prompts.template_sets():
            raise ValueError(f"unknown template set {self.template_set!r}; known: {sorted(prompts.template_sets())}")


RECIPES: dict[str, ClipRecipe] = {
    # The settings of the published comparison of CLIP with and without LIIF on CIFAR-10.
    "finetune": ClipRecipe(),
    # From random weights on small images: what made checkpoints/clipsr-small.
    "scratch": ClipRecipe(epochs=20, batch_size=512, optimizer="muon", lr=1.5e-3, augmented=True),
}
