"""Models that answer damaged pictures as undamaged ones: their names, and their configurations.

These are the configurations of `image_encoder` and of the ensembles around it, with two more outputs. They are derived
and not kept beside the others, as every folder of a repository is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from clipsr_export._errors import TemplateError

PLAIN_ENCODER, ROBUST_ENCODER = "image_encoder", "robust_encoder"
OUTPUTS = ("image_embedding", "degradation_cosine", "degradation_probability")
_ENSEMBLES = ("classify", "classify_native", "classify_detailed", "classify_native_detailed")
ROBUST_MODELS: Mapping[str, str] = {
    PLAIN_ENCODER: ROBUST_ENCODER,
    **{ensemble: f"{ensemble}_robust" for ensemble in _ENSEMBLES},
}
"""By the model that each is derived from."""

# There is neither an int8 form nor a plan of the robust encoder: its graph runs as under the nearest other profile.
_INSTEAD = {"cpu-int8": "cpu", "gpu-tensorrt": "gpu-onnx"}

_NEW_OUTPUTS = "".join(
    f'\n  {{\n    name: "{name}"\n    data_type: TYPE_FP32\n    dims: [ -1 ]  # [C]\n  }},' for name in OUTPUTS[1:]
)
_OUTPUT_MAP = '\n      output_map { key: "image_embedding" value: "image_embedding" }'


def derive_configurations(template: Mapping[Path, str]) -> dict[Path, str]:
    """Return the configurations of the robust models, by path inside the repository.

    Args:
        template: all configurations of a model repository, likewise.

    Raises:
        TemplateError: one lacks a line that is to be changed.
    """
    return {
        Path(ROBUST_MODELS[path.parts[0]], *path.parts[1:]): _derive(path, template)
        for path in template
        if path.parts[0] in ROBUST_MODELS
    }


def _derive(path: Path, template: Mapping[Path, str]) -> str:
    path = path.with_stem(_INSTEAD.get(path.stem, path.stem))
    if (text := template.get(path)) is None:
        raise TemplateError(f"{path} is missing, and with it what the robust encoder would run as")
    plain = path.parts[0]
    changes = {f'name: "{plain}"\n': f'name: "{ROBUST_MODELS[plain]}"\n', "\noutput [": f"\noutput [{_NEW_OUTPUTS}"}
    if plain != PLAIN_ENCODER:
        changes[f'model_name: "{PLAIN_ENCODER}"'] = f'model_name: "{ROBUST_ENCODER}"'
        changes[_OUTPUT_MAP] = "".join(_OUTPUT_MAP.replace(OUTPUTS[0], name) for name in OUTPUTS)
    for old, new in changes.items():
        if text.count(old) != 1:
            raise TemplateError(f"{path} has {text.count(old)} lines {old.strip()!r}; one is to be changed")
        text = text.replace(old, new)
    return f"# As {plain}, from which export derived it, with a controller, which also says what is wrong.\n{text}"
