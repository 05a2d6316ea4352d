"""The whole export: graphs, tokenizer, text banks, manifest and configurations, checked and then put in place."""

# torch, onnx, onnxruntime and Pillow ship partial types: what comes out of them is unknown to the checker.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import nn

from clipsr_export._errors import ExportError, TemplateError, TokenizerError
from clipsr_export._graphs.check import check_graph
from clipsr_export._graphs.modules import (
    ImageEncoderGraph,
    RobustEncoderGraph,
    TextEncoderGraph,
    UpscaleGraph,
)
from clipsr_export._graphs.onnx import write_onnx
from clipsr_export._graphs.receptive_field import measure_receptive_field
from clipsr_export._repository import robust
from clipsr_export._repository.dims import fill_dims
from clipsr_export._repository.manifest import (
    Manifest,
    Recipe,
    describe_file,
    make_manifest,
    write_manifest,
)
from clipsr_export._repository.replace import check_output, named_when_unwritable, replaced, staging_folder
from clipsr_export._repository.restorer import (
    RESTORER_MODELS,
    check_restorer,
    describe_restorer,
    restorer_configurations,
    restorer_template,
    write_restorer,
)
from clipsr_export._repository.text_banks import DEFAULT_TEMPLATES, NONE_BANK, write_none_bank, write_text_banks
from clipsr_export._tokenizer.build import build_tokenizer, pad_token_id
from clipsr_training import prompts
from clipsr_training.adapt import RouteRule
from clipsr_training.clip import ClipCheckpoint
from clipsr_training.controller import ControlledClip
from clipsr_training.data import read_image
from clipsr_training.liif import Upscaler, describe_upscaler
from clipsr_training.none_of_these import Calibration
from clipsr_training.restoration import Restorer

# Canvas sides that requests are padded to, so that images of different sizes share a batch.
CANVAS_SIZES_PX = (32, 64, 128)
# What the graph is checked on besides: upscaling sends windows of any shape, down to a single pixel.
_OTHER_CANVASES_HW = ((57, 41), (1, 1), (5, 1))
# Models that an export adds for pictures, each a copy of `upscale` with another graph.
_PICTURE_MODELS: Mapping[Recipe, str] = {"clean": "upscale_clean", "robust": "upscale_robust"}
# What an export or a later step makes: taken over neither from the template nor from the output.
_GENERATED = shutil.ignore_patterns(
    "model.onnx*",
    "model.int8.onnx",
    "*.plan",
    "tensorrt.json",
    "manifest.json",
    "tokenizer.json",
    "text_banks",
    *_PICTURE_MODELS.values(),
    *RESTORER_MODELS,
    *robust.ADDED_MODELS,
)
# What cleaning, special tokens, cutting and padding could each get wrong.
_HARD_TEXTS = (
    "",
    " a\tb\n",
    "a very long caption, " * 100,
    "Ｆｕｌｌ “width” ﬁ",
    "一只猫",
    "🐈‍⬛ x",
    "a\x07b",
    "don't_do.it!",
)

_WARM_UP = re.compile(r"(?:#[^\n]*\n)*(?P<first>model_warmup \[\n  \{\n.*?\n  \}),?\n.*\Z", re.DOTALL)

_Samples = Iterator[dict[str, npt.NDArray[Any]]]


@dataclass(frozen=True, kw_only=True)
class ExportPlan:
    """What is exported, and where to.

    Attributes:
        name: the manifest's model name.
        clip: the CLIP checkpoint.
        upscaler: the super-resolution model before the image encoder.
        controlled: `clip` with a controller of its image encoder, which is exported as a second one; None for none.
        recipes: those that render pictures for people; the same object twice is served by one model. Without any, the
            encoder's is what is clean.
        template: a model repository whose configurations are taken.
        output: the repository to fill; may be the template itself.
        samples: real images that the graphs are checked on, besides random ones.
        native_min_side_px: shorter side from which images skip super-resolution.
        route_rules: which route small images take, as `measure_routes` found; None where it was not measured.
        restorer: what restores damaged pictures; None serves no restoration.
        none_of_these: the rule for images that show none of the labels; None for none.
        has_text_banks: whether embeddings of the named label sets are computed now, and not at their first use.
        report: called with one line about every step.
    """

    name: str
    clip: ClipCheckpoint
    upscaler: Upscaler
    template: Path
    output: Path
    samples: tuple[Path, ...]
    native_min_side_px: int
    route_rules: tuple[RouteRule, ...] | None = None
    controlled: ControlledClip | None = None
    recipes: Mapping[Recipe, Upscaler] = field(default_factory=dict[Recipe, Upscaler])
    restorer: Restorer | None = None
    none_of_these: Calibration | None = None
    has_text_banks: bool = True
    report: Callable[[str], None] = lambda _: None

    def recipe_models(self) -> dict[Recipe, str]:
        """Return the model of each recipe: an upscaler that has one already gets no second."""
        names = {id(self.upscaler): "upscale"}
        return {
            recipe: names.setdefault(id(upscaler), _PICTURE_MODELS[recipe]) for recipe, upscaler in self.recipes.items()
        }

    def added_models(self) -> dict[str, Upscaler]:
        """Return the upscalers that are exported beside the encoder's, by the name of their model."""
        models = {name: self.recipes[recipe] for recipe, name in self.recipe_models().items()}
        return {name: upscaler for name, upscaler in models.items() if name != "upscale"}

    def derived_models(self) -> dict[str, str]:
        """Return the models that the template does not hold, each with the one that it is derived from."""
        return {**dict.fromkeys(self.added_models(), "upscale"), **robust.derived_models(self.controlled)}


def export_repository(plan: ExportPlan) -> Manifest:
    """Export into a temporary folder, check everything, then put a whole new repository in the place of the output.

    Returns:
        The manifest.

    Raises:
        TemplateError: the template is not a model repository.
        ParityError: a graph does not compute what PyTorch computes; the output is unchanged.
        ExportError: the output can't be written, or the model can't be described.
    """
    if plan.controlled is not None and not plan.controlled.controller.kinds:
        raise ExportError("the controller names no kinds of damage, and there is nothing to answer without them")
    configurations = _configurations(plan)
    check_output(plan.output)
    beside = plan.output.resolve().parent
    with named_when_unwritable(plan.output), staging_folder(beside) as made:
        _write_graphs(plan, made)
        tokenizer = _write_tokenizer(plan, made)
        banks = write_text_banks(plan.clip, made, plan.report) if plan.has_text_banks else []
        if plan.none_of_these is not None:
            write_none_bank(plan.clip, plan.none_of_these.names, made, plan.report)
        manifest = _manifest(plan, made, banks, pad_token_id(tokenizer))
        write_manifest(made, manifest)
        with replaced(plan.output, ignore=_GENERATED) as repository:
            if plan.template.resolve() != plan.output.resolve():
                shutil.copytree(plan.template, repository, ignore=_GENERATED, dirs_exist_ok=True)
            for model, source in plan.derived_models().items():
                shutil.copytree(repository / source, repository / model, ignore=_GENERATED)
            if plan.restorer is not None:
                shutil.copytree(restorer_template(plan.template), repository, dirs_exist_ok=True)
            for path, text in configurations.items():
                (repository / path).write_text(text, encoding="utf-8")
            _move_files(made, repository)
    plan.report(f"wrote {plan.output} ({plan.name}, {manifest.digest[:19]})")
    return manifest


def _configurations(plan: ExportPlan) -> dict[Path, str]:
    """Return every configuration of the template, filled in, by path inside the repository."""
    found = [*plan.template.glob("*/config.pbtxt"), *plan.template.glob("*/configs/*.pbtxt")]
    paths = sorted(p.relative_to(plan.template) for p in found)
    generated = {*_PICTURE_MODELS.values(), *robust.ADDED_MODELS, *RESTORER_MODELS}
    paths = [path for path in paths if path.parts[0] not in generated]
    if not paths:
        raise TemplateError(
            f"{plan.template} holds no <model>/config.pbtxt; name clipsr's model_repository with --template"
        )
    sizes = {"R": plan.clip.image_size_px, "D": plan.clip.embed_dim, "L": plan.clip.context_length}
    texts = {path: (plan.template / path).read_text(encoding="utf-8") for path in paths}
    for model in plan.added_models():
        texts |= {
            Path(model, *path.parts[1:]): _derive_for_pictures(texts[path], model)
            for path in paths
            if path.parts[0] == "upscale"
        }
    if plan.controlled is not None:
        sizes["C"] = len(plan.controlled.controller.kinds)
        plain = {path: texts[path] for path in paths}
        texts |= robust.derive_configurations(plain, has_head=plan.controlled.head is not None)
    filled = {path: fill_dims(text, sizes) for path, text in texts.items()}
    if plan.restorer is not None:
        check_restorer(plan.restorer)
        filled |= restorer_configurations(plan.template, plan.restorer)
    return filled


def _derive_for_pictures(text: str, model: str) -> str:
    """Return the configuration of `upscale` under another name, warmed up by one request.

    Pictures come in windows of any shape, so no request could plan memory for all, and most services are asked for
    none: what the largest batches take (400 MB on openvino) is left to those that are.
    """
    renamed = text.replace('name: "upscale"', f'name: "{model}"', 1)
    return _WARM_UP.sub(r"# One request, so that the graph is ready to run.\n\g<first>\n]\n", renamed)


def _write_graphs(plan: ExportPlan, staging: Path) -> None:
    size = plan.clip.image_size_px
    batch = {0: "batch"}
    # Two symbols: classification sends squares, upscaling of whole images any shape.
    canvas_axes = {"canvas": {0: "batch", 2: "canvas_height", 3: "canvas_width"}, "box": batch}
    graphs: list[tuple[str, nn.Module, Callable[[], _Samples], Sequence[str], dict[str, dict[int, str]]]] = [
        ("upscale", UpscaleGraph(plan.upscaler, size), lambda: _canvases(plan), ("pixels",), canvas_axes),
        ("image_encoder", ImageEncoderGraph(plan.clip), lambda: _pixels(plan), robust.OUTPUTS[:1], {"pixels": batch}),
        ("text_encoder", TextEncoderGraph(plan.clip), lambda: _tokens(plan), ("text_embedding",), {"tokens": batch}),
        *(
            (name, UpscaleGraph(upscaler, size), lambda: _canvases(plan), ("pixels",), canvas_axes)
            for name, upscaler in plan.added_models().items()
        ),
    ]
    if plan.controlled is not None:
        robust_graph = RobustEncoderGraph(plan.controlled)
        graphs.append((robust.ROBUST_ENCODER, robust_graph, lambda: _pixels(plan), robust.OUTPUTS, {"pixels": batch}))
    for name, module, samples, outputs, axes in graphs:
        path = staging / name / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        example = {key: torch.from_numpy(array) for key, array in next(samples()).items()}
        inner = module.upscaler.INNER_TENSORS if isinstance(module, UpscaleGraph) else ()
        write_onnx(module, example, outputs, path, axes, inner=inner)
        difference = check_graph(name, module, path, samples())
        plan.report(f"{name}: {path.stat().st_size / 1e6:.1f} MB, largest difference from PyTorch {difference:.2g}")
    if plan.restorer is not None:
        write_restorer(plan.restorer, staging, plan.samples, plan.report)


def _canvases(plan: ExportPlan) -> _Samples:
    """Yield random canvases and boxes of every bucket and of other shapes, then real images."""
    rng = np.random.default_rng(0)
    for side in CANVAS_SIZES_PX:
        canvas = rng.integers(0, 256, (3, 3, side, side), dtype=np.uint8)
        boxes = [[0, 0, side, side], [0.5, 3, side - 5.5, side - 5.5], [0, 0, 16, 11]]
        yield {"canvas": canvas, "box": np.array(boxes, dtype=np.float32)}
    for height, width in _OTHER_CANVASES_HW:
        canvas = rng.integers(0, 256, (2, 3, height, width), dtype=np.uint8)
        boxes = [[0, 0, height, width], [0.25, 0.5, height, 1.5]]
        yield {"canvas": canvas, "box": np.array(boxes, dtype=np.float32)}
    for path in plan.samples:
        side = CANVAS_SIZES_PX[1]
        array = np.asarray(Image.fromarray(read_image(path)).resize((side, side), Image.Resampling.BICUBIC))
        canvas = np.ascontiguousarray(array.transpose(2, 0, 1)[None])
        yield {"canvas": canvas, "box": np.array([[0, 0, side, side]], dtype=np.float32)}


def _pixels(plan: ExportPlan) -> _Samples:
    """Yield random pixels, then real images."""
    rng = np.random.default_rng(0)
    size = plan.clip.image_size_px
    yield {"pixels": rng.integers(0, 256, (3, 3, size, size), dtype=np.uint8)}
    for path in plan.samples:
        array = np.asarray(Image.fromarray(read_image(path)).resize((size, size), Image.Resampling.BICUBIC))
        yield {"pixels": np.ascontiguousarray(array.transpose(2, 0, 1)[None])}


def _tokens(plan: ExportPlan) -> _Samples:
    """Yield token ids of real prompts, one of them longer than the context."""
    texts = [prompts.expand(t, "cat") for t in prompts.template_sets()["cifar"]]
    yield {"tokens": plan.clip.tokenizer(texts).numpy()}
    yield {"tokens": plan.clip.tokenizer(["a very long caption, " * 40]).numpy()}


def _write_tokenizer(plan: ExportPlan, staging: Path) -> Tokenizer:
    """Write the tokenizer file after comparing it with the checkpoint's own tokenizer on every known prompt."""
    tokenizer = build_tokenizer(plan.clip)
    labels = sorted({label for labels in prompts.label_sets().values() for label in labels})
    texts = [prompts.expand(t, label) for t in prompts.template_sets()["imagenet"] for label in labels]
    texts += _HARD_TEXTS
    actual = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    for text, ids, expected in zip(texts, actual, plan.clip.tokenizer(texts).tolist(), strict=True):
        if ids != expected:
            raise TokenizerError(f"the tokenizers file gives other token ids than the checkpoint's own for {text!r}")
    tokenizer.save(str(staging / "text_encoder" / "tokenizer.json"))
    return tokenizer


def _manifest(plan: ExportPlan, staging: Path, banks: list[dict[str, str]], pad_id: int) -> Manifest:
    files = sorted(p for p in staging.rglob("*") if p.is_file())
    artifacts = {p.relative_to(staging).as_posix(): describe_file(p) for p in files}
    clip = plan.clip
    packages = ("clipsr-export", "clipsr-training", "torch", "onnx", "onnxscript", "open_clip_torch", "tokenizers")
    fields = {
        "name": plan.name,
        "weights": "random" if clip.is_random else "trained",
        "image_encoder": {
            "architecture": clip.architecture,
            "image_size_px": clip.image_size_px,
            "embed_dim": clip.embed_dim,
            "mean": list(clip.mean),
            "std": list(clip.std),
            "interpolation": clip.interpolation,
            "resize_mode": clip.resize_mode,
            "fill_color": clip.fill_color,
        },
        "text_encoder": {
            "context_length": clip.context_length,
            "vocab_size": clip.vocab_size,
            "pad_token_id": pad_id,
        },
        "upscaler": {
            **_describe(plan.upscaler),
            "canvas_sizes_px": list(CANVAS_SIZES_PX),
        },
        "upscale_recipes": _describe_recipes(plan),
        "restorer": None if plan.restorer is None else describe_restorer(plan.restorer),
        "robust_encoder": robust.describe_robust(plan.controlled),
        "none_of_these": _describe_none(plan.none_of_these),
        "taught_names": clip.taught_names or None,
        "scoring": {
            "function": "softmax" if clip.logit_bias is None else "sigmoid",
            "logit_scale": clip.logit_scale,
            "logit_bias": clip.logit_bias or 0.0,
        },
        "native_min_side_px": plan.native_min_side_px,
        "route_rules": None if plan.route_rules is None else [asdict(rule) for rule in plan.route_rules],
        "default_templates": DEFAULT_TEMPLATES,
        "template_sets": prompts.template_sets(),
        "label_sets": prompts.label_sets(),
        "text_banks": banks,
        "artifacts": artifacts,
        "versions": {name: version(name) for name in packages},
    }
    return make_manifest(fields)


def _describe_none(calibration: Calibration | None) -> dict[str, Any] | None:
    if calibration is None:
        return None
    figures = {name: value for name, value in asdict(calibration).items() if name != "names"}
    return {"file": NONE_BANK, "name_count": len(calibration.names), **figures}


def _describe(upscaler: Upscaler) -> dict[str, Any]:
    spec = describe_upscaler(upscaler)
    return {
        "architecture": f"{spec['name']} ({spec['args']['encoder_spec']['name']})",
        "scale_max": upscaler.scale_max,
        "receptive_field_px": measure_receptive_field(upscaler),
    }


def _describe_recipes(plan: ExportPlan) -> dict[Recipe, dict[str, Any]] | None:
    models = plan.recipe_models()
    if models in ({}, {"clean": "upscale"}):
        return None
    return {recipe: {"model": model, **_describe(plan.recipes[recipe])} for recipe, model in models.items()}


def _move_files(source: Path, target: Path) -> None:
    for path in [path for path in source.rglob("*") if path.is_file()]:
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.replace(place)
