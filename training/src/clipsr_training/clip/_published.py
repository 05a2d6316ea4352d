"""What published weights say of themselves: OpenCLIP's configuration of each pair of model and tag.

A weight file holds tensors only. How its images are prepared and which activation its towers have is written where
OpenCLIP publishes the weights, and is taken from there, never assumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
from open_clip.transform import PreprocessCfg, merge_preprocess_dict

from clipsr_training.clip._errors import PreprocessError

# Where the weights lie; every other field describes them.
_SOURCES = frozenset({"url", "hf_hub"})
_PREPROCESS = frozenset(field.name for field in fields(PreprocessCfg))


def published_config(
    model_name: str, tag: str | None, model_cfg: Mapping[str, Any], *, is_openai: bool, is_random: bool
) -> dict[str, Any]:
    """Return what the published weights that some weights are, or descend from, say of themselves.

    Args:
        model_name: OpenCLIP's name.
        tag: of the published weights; None where the weights come from a file, or there are none.
        model_cfg: configuration of the named model: what holds where the published weights do not say.
        is_openai: whether the file is OpenAI's.
        is_random: whether there are no weights.

    Returns:
        Fields of `preprocess_cfg` and of `model_cfg`; `split_config` tells them apart.

    Raises:
        PreprocessError: published weights of the model differ, and no tag says which to follow.
    """
    published = {name: _described(model_name, name) for name in list_pretrained_tags_by_model(model_name)}
    if is_openai:
        return published.get("openai", {})
    if tag is not None:
        if tag not in published:
            raise PreprocessError(f"{model_name} has no published weights {tag!r}; known: {', '.join(published)}")
        return published[tag]
    differing = _differing(published, model_cfg)
    if differing and not is_random:
        raise PreprocessError(_ambiguity(model_name, published, model_cfg, differing))
    return next(iter(published.values()), {})


def split_config(published: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `preprocess_cfg`, complete but for `size`, and the fields that belong into `model_cfg`."""
    prepared = {name: value for name, value in published.items() if name in _PREPROCESS}
    of_model = {name: value for name, value in published.items() if name not in _PREPROCESS}
    return merge_preprocess_dict(asdict(PreprocessCfg()), prepared), of_model


def _described(model_name: str, tag: str) -> dict[str, Any]:
    return {name: value for name, value in get_pretrained_cfg(model_name, tag).items() if name not in _SOURCES}


def _differing(published: Mapping[str, Mapping[str, Any]], model_cfg: Mapping[str, Any]) -> list[str]:
    """Return the fields in which published weights of a model differ, in their order."""
    names = dict.fromkeys(name for item in published.values() for name in item)
    return [name for name in names if len({_value(item, model_cfg, name) for item in published.values()}) > 1]


def _value(item: Mapping[str, Any], model_cfg: Mapping[str, Any], name: str) -> str:
    """Return a field for comparison and for people; where neither says it, it is off."""
    return f"{name} {item.get(name, model_cfg.get(name, False))}"


def _ambiguity(
    model_name: str,
    published: Mapping[str, Mapping[str, Any]],
    model_cfg: Mapping[str, Any],
    differing: list[str],
) -> str:
    ways: dict[str, list[str]] = {}
    for tag, item in published.items():
        ways.setdefault(", ".join(_value(item, model_cfg, name) for name in differing), []).append(tag)
    kinds = []
    if _PREPROCESS.intersection(differing):
        kinds.append("take images prepared in different ways")
    if of_model := [name for name in differing if name not in _PREPROCESS]:
        kinds.append(f"differ in {', '.join(of_model)}")
    listed = "; ".join(f"{way}: {', '.join(tags)}" for way, tags in ways.items())
    return (
        f"published weights of {model_name} {' and '.join(kinds)} ({listed}); name the tag that the file descends from "
        "(--preprocess)"
    )
