"""Models that answer damaged pictures as undamaged ones: their names, and their configurations.

These are the configurations of `image_encoder` and of the ensembles around it, with two more outputs. They are derived
and not kept beside the others, as every folder of a repository is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from clipsr_export._errors import TemplateError
from clipsr_export._repository.dims import fill_dims
from clipsr_training.controller import ControlledClip

PLAIN_ENCODER, ROBUST_ENCODER = "image_encoder", "robust_encoder"
OUTPUTS = ("image_embedding", "degradation_cosine", "degradation_probability")
_ENSEMBLES = ("classify", "classify_native", "classify_detailed", "classify_native_detailed")
_EMBEDDERS = ("embed_image", "embed_image_native")
ROBUST_MODELS: Mapping[str, str] = {
    PLAIN_ENCODER: ROBUST_ENCODER,
    **{ensemble: f"{ensemble}_robust" for ensemble in (*_ENSEMBLES, *_EMBEDDERS)},
}
"""By the model that each is derived from."""

AUTO_MODELS: Mapping[str, str] = {"classify": "classify_auto", "classify_native": "classify_native_auto"}
"""Those that also give out the embedding, by which the gateway chooses the encoder; likewise."""

ADDED_MODELS = (*ROBUST_MODELS.values(), *AUTO_MODELS.values())
"""All that a controller may add."""

# There is no plan of the robust encoder, and no int8 form until `clipsr-export int8` makes one: its graph runs as under
# the nearest other profile.
_INSTEAD = {"cpu-int8": "cpu", "gpu-tensorrt": "gpu-onnx"}
_INT8 = Path("configs", "cpu-int8.pbtxt")

_NEW_OUTPUTS = "".join(
    f'\n  {{\n    name: "{name}"\n    data_type: TYPE_FP32\n    dims: [ -1 ]  # [C]\n  }},' for name in OUTPUTS[1:]
)
_EMBEDDING_OUTPUT = '\n  {\n    name: "image_embedding"\n    data_type: TYPE_FP32\n    dims: [ -1 ]  # [D]\n  },'
_OUTPUT_MAP = '\n      output_map { key: "image_embedding" value: "image_embedding" }'


def derived_models(controlled: ControlledClip | None) -> dict[str, str]:
    """Return the models that a controller adds, each with the one that it is derived from."""
    if controlled is None:
        return {}
    added = (ROBUST_MODELS,) if controlled.head is None else (ROBUST_MODELS, AUTO_MODELS)
    return {new: plain for models in added for plain, new in models.items()}


def describe_robust(controlled: ControlledClip | None) -> dict[str, object] | None:
    """Return the manifest's entry; None without a controller."""
    if controlled is None:
        return None
    kinds, head = controlled.controller.kinds, controlled.head
    if head is None:
        return {"kinds": kinds}
    # Eight digits are what a float32 holds.
    weight = [float(f"{value:.8g}") for value in head.weight.tolist()]
    return {"kinds": kinds, "head": {"weight": weight, "bias": head.bias}}


def derive_configurations(template: Mapping[Path, str], *, has_head: bool = False) -> dict[Path, str]:
    """Return the configurations of the models that a controller adds, by path inside the repository.

    Args:
        template: all configurations of a model repository, likewise.
        has_head: whether those with `image_embedding` are among them.

    Raises:
        TemplateError: one lacks a line that is to be changed.
    """
    found: dict[Path, str] = {}
    for path in template:
        plain, rest = path.parts[0], path.parts[1:]
        if plain in ROBUST_MODELS:
            found[Path(ROBUST_MODELS[plain], *rest)] = _derive(path, template)
        if plain in AUTO_MODELS and has_head:
            found[Path(AUTO_MODELS[plain], *rest)] = _derive_auto(path, template[path])
    return found


def write_int8_configuration(repository: Path, sizes: Mapping[str, int]) -> None:
    """Let the robust encoder run in int8 where the image encoder does.

    Args:
        repository: with both, the robust one in int8.
        sizes: see `fill_dims`.

    Raises:
        TemplateError: the configuration of the image encoder in int8 lacks a line that is to be changed.
    """
    path = Path(PLAIN_ENCODER, _INT8)
    text = _add_outputs(path, (repository / path).read_text(encoding="utf-8"))
    (repository / ROBUST_ENCODER / _INT8).write_text(fill_dims(text, sizes), encoding="utf-8")


def drop_int8_configuration(repository: Path) -> None:
    """Let the robust encoder of a repository run where the image encoder runs in int8 as it does without int8."""
    without = Path(ROBUST_ENCODER, _INT8).with_stem(_INSTEAD[_INT8.stem])
    (repository / ROBUST_ENCODER / _INT8).write_text((repository / without).read_text("utf-8"), encoding="utf-8")


def _derive_auto(path: Path, text: str) -> str:
    plain = path.parts[0]
    changes = {f'name: "{plain}"\n': f'name: "{AUTO_MODELS[plain]}"\n', "\noutput [": f"\noutput [{_EMBEDDING_OUTPUT}"}
    text = _change(path, text, changes)
    return f"# As {plain}, from which export derived it, with the embedding, which shows whether it is damaged.\n{text}"


def _change(path: Path, text: str, changes: Mapping[str, str]) -> str:
    for old, new in changes.items():
        if text.count(old) != 1:
            raise TemplateError(f"{path} has {text.count(old)} lines {old.strip()!r}; one is to be changed")
        text = text.replace(old, new)
    return text


def _derive(path: Path, template: Mapping[Path, str]) -> str:
    path = path.with_stem(_INSTEAD.get(path.stem, path.stem))
    if (text := template.get(path)) is None:
        raise TemplateError(f"{path} is missing, and with it what the robust encoder would run as")
    return _add_outputs(path, text)


def _add_outputs(path: Path, text: str) -> str:
    plain = path.parts[0]
    changes = {f'name: "{plain}"\n': f'name: "{ROBUST_MODELS[plain]}"\n', "\noutput [": f"\noutput [{_NEW_OUTPUTS}"}
    if plain != PLAIN_ENCODER:
        changes[f'model_name: "{PLAIN_ENCODER}"'] = f'model_name: "{ROBUST_ENCODER}"'
        changes[_OUTPUT_MAP] = "".join(_OUTPUT_MAP.replace(OUTPUTS[0], name) for name in OUTPUTS)
    text = _change(path, text, changes)
    return f"# As {plain}, from which export derived it, with a controller, which also says what is wrong.\n{text}"
