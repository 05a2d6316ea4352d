"""The description of the model, to values; nothing here reads files or talks to anyone."""

from __future__ import annotations

from clipsr._codecs.classify import ROUTES_TAKEN, unreadable
from clipsr._feature_types import NoneOfTheseInfo, RestorerInfo
from clipsr._types import (
    Artifact,
    CallerLimits,
    LibraryLimits,
    Limits,
    ModelInfo,
    RouteRule,
    UpscaleRecipe,
)
from clipsr.v1 import classifier_pb2, types_pb2

RECIPES: dict[types_pb2.UpscaleRecipe, UpscaleRecipe] = {
    types_pb2.UPSCALE_RECIPE_CLEAN: "clean",
    types_pb2.UPSCALE_RECIPE_ROBUST: "robust",
}


def decode_model_info(response: classifier_pb2.GetModelInfoResponse) -> ModelInfo:
    """Return the description of the model."""
    info = response.model_info
    limits = info.limits
    return ModelInfo(
        name=info.name,
        digest=info.digest,
        image_architecture=info.image_architecture,
        image_size_px=info.image_size_px,
        embed_dim=info.embed_dim,
        upscaler_architecture=info.upscaler_architecture,
        canvas_sizes_px=tuple(info.canvas_sizes_px),
        native_min_side_px=info.native_min_side_px,
        logit_scale=info.logit_scale,
        logit_bias=info.logit_bias,
        scoring_function=info.scoring_function,
        context_length=info.context_length,
        default_templates=info.default_templates,
        label_sets={named.name: tuple(named.values) for named in info.label_sets},
        template_sets={named.name: tuple(named.values) for named in info.template_sets},
        limits=Limits(
            max_images=limits.max_images,
            max_image_bytes=limits.max_image_bytes,
            max_image_pixels=limits.max_image_pixels,
            max_labels=limits.max_labels,
            max_label_bytes=limits.max_label_bytes,
            max_templates=limits.max_templates,
            max_texts=limits.max_texts,
            max_message_bytes=limits.max_message_bytes,
            max_output_pixels=limits.max_output_pixels,
            max_restore_pixels=limits.max_restore_pixels,
            max_embed_texts=limits.max_embed_texts,
            max_stream_images=limits.max_stream_images,
            caller=_decode_caller(limits.caller) if limits.HasField("caller") else None,
            library=_decode_library_limits(limits.library) if limits.HasField("library") else None,
        ),
        artifacts=tuple(
            Artifact(path=artifact.path, sha256=artifact.sha256, size_bytes=artifact.size_bytes)
            for artifact in info.artifacts
        ),
        gateway_version=info.gateway_version,
        route_rules=tuple(map(_decode_rule, info.route_rules)),
        degradation_kinds=tuple(info.degradation_kinds),
        # Those of a later version can't be asked for by this one.
        upscale_recipes=tuple(RECIPES[number] for number in info.upscale_recipes if number in RECIPES),
        has_auto_encoder=info.has_auto_encoder,
        restorer=_decode_restorer(info.restorer) if info.HasField("restorer") else None,
        none_of_these=_decode_none_of_these(info.none_of_these) if info.HasField("none_of_these") else None,
    )


def _decode_none_of_these(info: classifier_pb2.NoneOfTheseInfo) -> NoneOfTheseInfo:
    return NoneOfTheseInfo(
        name_count=info.name_count,
        threshold=info.threshold,
        false_refusals=info.false_refusals,
        auroc=info.auroc,
        expected_calibration_error=info.expected_calibration_error,
    )


def _decode_restorer(restorer: classifier_pb2.RestorerInfo) -> RestorerInfo:
    return RestorerInfo(
        architecture=restorer.architecture,
        kinds={kind.name: tuple(kind.words) for kind in restorer.kinds},
        default_steps=restorer.default_steps,
        max_steps=restorer.max_steps,
    )


def _decode_rule(rule: classifier_pb2.RouteRule) -> RouteRule:
    if rule.route not in ROUTES_TAKEN:
        raise unreadable(f"a rule for route {rule.route}")
    return RouteRule(
        max_side_px=rule.max_side_px,
        is_lossy=rule.is_lossy,
        route=ROUTES_TAKEN[rule.route],
        upscaled_agreement=rule.upscaled_agreement,
        native_agreement=rule.native_agreement,
        n_images=rule.n_images,
        max_noise=rule.max_noise if rule.HasField("max_noise") else None,
    )


def _decode_caller(caller: types_pb2.CallerLimits) -> CallerLimits:
    return CallerLimits(
        items_per_second=caller.items_per_second,
        burst=caller.burst,
        max_concurrent_calls=caller.max_concurrent_calls,
    )


def _decode_library_limits(limits: types_pb2.LibraryLimits) -> LibraryLimits:
    return LibraryLimits(
        max_libraries=limits.max_libraries,
        max_name_bytes=limits.max_name_bytes,
        max_top_k=limits.max_top_k,
        max_page_size=limits.max_page_size,
        max_source_bytes=limits.max_source_bytes,
        max_tags=limits.max_tags,
        max_tag_bytes=limits.max_tag_bytes,
        max_metadata=limits.max_metadata,
        max_metadata_value_bytes=limits.max_metadata_value_bytes,
        max_thumbnail_side_px=limits.max_thumbnail_side_px,
        max_original_bytes=limits.max_original_bytes,
        max_delete_hashes=limits.max_delete_hashes,
    )
