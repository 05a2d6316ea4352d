"""A model repository in which one process does what is done to an image, behind the names of all models.

Triton's Python backend runs each model in a process of its own, and hands tensors from one to the next. For small
images that costs as much as decoding and comparing them.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipsr_serving.errors import LaunchError, ModelLoadError

__all__ = ["MODEL", "build_repository", "choose_processes"]

MODEL = "image_path"
# The models that it stands for; the last two are there where a controller was exported.
_STANDS_FOR = (
    "decode",
    "decode_native",
    "upscale",
    "image_encoder",
    "similarity",
    "embed_image",
    "embed_image_native",
    "classify",
    "classify_native",
    "classify_detailed",
    "classify_native_detailed",
    "classify_auto",
    "classify_native_auto",
)
_NATIVE = "_native"
# Rows of one batch may differ in their number.
_RAGGED = ("labels", "templates")
_MODEL_FILE = """\
from clipsr_serving.models.image_path import ImagePathModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
"""

_Tensor = Mapping[str, Any]


def choose_processes(requested: str, config_name: str | None, *, triton_kind: str) -> str:
    """Say whether one process does what is done to an image: `shared` or `separate`.

    Args:
        requested: one of these, or `auto`.
        config_name: of the engines' configurations.
        triton_kind: `embedded`, `path` or `docker`.

    Raises:
        LaunchError: this Triton, or this profile, cannot.
    """
    is_able = triton_kind == "embedded" and not (config_name or "").startswith("gpu-")
    if requested == "auto":
        return "shared" if is_able else "separate"
    if requested == "shared" and not is_able:
        raise LaunchError(
            "--processes shared needs the embedded Triton and a profile for the CPU; use separate, or auto."
        )
    return requested


def build_repository(repository: Path, target: Path, *, config_name: str | None) -> Path:
    """Write the repository that Triton is to serve; an earlier one is replaced where it differs.

    Models that are not concerned are links. One that is as it should be stays: a restart must not depend on free space.

    Args:
        repository: what export wrote.
        target: a folder of the launcher's own.
        config_name: of the engines' `configs/NAME.pbtxt`; None for config.pbtxt.

    Raises:
        LaunchError: a configuration cannot be read, or a file not be written.
    """
    # Here and not above: it loads numpy, for which the launcher's other verbs should not wait.
    from clipsr_serving.backends import read_config

    names = [name for name in _STANDS_FOR if (repository / name / "config.pbtxt").is_file()]
    try:
        configs = {name: read_config(repository / name / "config.pbtxt") for name in names}
        files = {f"{name}/config.pbtxt": _make_stand_in(name, config) for name, config in configs.items()}
        files[f"{MODEL}/config.pbtxt"] = _make_image_path(configs, repository, config_name)
        files[f"{MODEL}/1/model.py"] = _MODEL_FILE
        links = {path.name: path.absolute() for path in repository.iterdir() if path.name not in names}
        if not _is_as(target, files, links):
            shutil.rmtree(target, ignore_errors=True)
            for name, text in files.items():
                # Triton wants a folder for the version of every model, also of one without files.
                (target / name.partition("/")[0] / "1").mkdir(parents=True, exist_ok=True)
                (target / name).write_text(text, encoding="utf-8")
            for name, path in links.items():
                (target / name).symlink_to(path)
    except ModelLoadError as error:
        raise LaunchError(f"{error}.") from error
    except OSError as error:
        raise LaunchError(f"{target} cannot be written: {error.strerror or error}") from error
    return target


def _is_as(target: Path, files: Mapping[str, str], links: Mapping[str, Path]) -> bool:
    """Whether a repository holds these files and links, and no other model."""
    try:
        return (
            {path.name for path in target.iterdir()} == {name.partition("/")[0] for name in files} | links.keys()
            and all((target / name).read_text(encoding="utf-8") == text for name, text in files.items())
            and all((target / name).readlink() == path for name, path in links.items())
        )
    except (OSError, ValueError):  # nothing there yet, or something else
        return False


def _make_stand_in(name: str, config: Mapping[str, Any]) -> str:
    """Describe an ensemble of one step, with the tensors of the model that it replaces."""
    inputs = [
        f'input_map {{ key: "{_inner_name(name, tensor)}" value: "{tensor["name"]}" }}' for tensor in config["input"]
    ]
    outputs = [f'output_map {{ key: "{tensor["name"]}" value: "{tensor["name"]}" }}' for tensor in config["output"]]
    return "\n".join(
        [
            f'name: "{name}"',
            'platform: "ensemble"',
            f"max_batch_size: {config['max_batch_size']}",
            _list_tensors("input", config["input"]),
            _list_tensors("output", config["output"]),
            f'ensemble_scheduling {{ step [ {{ model_name: "{MODEL}" model_version: -1',
            *inputs,
            *outputs,
            "} ] }",
            "",
        ]
    )


def _make_image_path(configs: Mapping[str, Mapping[str, Any]], repository: Path, config_name: str | None) -> str:
    """Describe the model itself, with the inputs and outputs of all."""
    inputs = {_inner_name(name, tensor): tensor for name, config in configs.items() for tensor in config["input"]}
    outputs = {tensor["name"]: tensor for config in configs.values() for tensor in config["output"]}
    optional = [
        tensor | {"name": name, "optional": "true"} | ({"allow_ragged_batch": "true"} if name in _RAGGED else {})
        for name, tensor in inputs.items()
    ]
    parameters = {"repository": str(repository.absolute())} | ({"config_name": config_name} if config_name else {})
    return "\n".join(
        [
            f'name: "{MODEL}"',
            'backend: "python"',
            f"max_batch_size: {min(config['max_batch_size'] for config in configs.values())}",
            _list_tensors("input", optional),
            _list_tensors("output", list(outputs.values())),
            "instance_group [ { kind: KIND_CPU count: 1 } ]",
            "dynamic_batching { }",
            *(
                f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'
                for key, value in parameters.items()
            ),
            "",
        ]
    )


def _inner_name(model: str, tensor: _Tensor) -> str:
    """Name an input inside: the route is told by where an image comes in."""
    name = str(tensor["name"])
    return f"native_{name}" if name == "image" and _NATIVE in model else name


def _list_tensors(side: str, tensors: Sequence[_Tensor]) -> str:
    lines = [
        f'  {{ name: "{tensor["name"]}" data_type: {tensor["data_type"]} dims: {list(tensor["dims"])}'
        + "".join(f" {key}: {tensor[key]}" for key in ("optional", "allow_ragged_batch") if key in tensor)
        + " }"
        for tensor in tensors
    ]
    return f"{side} [\n" + ",\n".join(lines) + "\n]"
