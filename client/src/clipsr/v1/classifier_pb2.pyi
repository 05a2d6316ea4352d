from clipsr.v1 import types_pb2 as _types_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ClassifyRequest(_message.Message):
    __slots__ = ("images", "options")
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedCompositeFieldContainer[_types_pb2.Image]
    options: ClassifyOptions
    def __init__(self, images: _Optional[_Iterable[_Union[_types_pb2.Image, _Mapping]]] = ..., options: _Optional[_Union[ClassifyOptions, _Mapping]] = ...) -> None: ...

class ClassifyOptions(_message.Message):
    __slots__ = ("label_space", "fit", "route", "top_k", "none_of_these", "return_embedding", "return_encoder_input", "encoder")
    LABEL_SPACE_FIELD_NUMBER: _ClassVar[int]
    FIT_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    NONE_OF_THESE_FIELD_NUMBER: _ClassVar[int]
    RETURN_EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    RETURN_ENCODER_INPUT_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    label_space: _types_pb2.LabelSpace
    fit: _types_pb2.Fit
    route: _types_pb2.Route
    top_k: int
    none_of_these: NoneOfThese
    return_embedding: bool
    return_encoder_input: bool
    encoder: _types_pb2.Encoder
    def __init__(self, label_space: _Optional[_Union[_types_pb2.LabelSpace, _Mapping]] = ..., fit: _Optional[_Union[_types_pb2.Fit, str]] = ..., route: _Optional[_Union[_types_pb2.Route, str]] = ..., top_k: _Optional[int] = ..., none_of_these: _Optional[_Union[NoneOfThese, _Mapping]] = ..., return_embedding: bool = ..., return_encoder_input: bool = ..., encoder: _Optional[_Union[_types_pb2.Encoder, str]] = ...) -> None: ...

class ClassifyStreamRequest(_message.Message):
    __slots__ = ("options", "image")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    options: ClassifyOptions
    image: StreamImage
    def __init__(self, options: _Optional[_Union[ClassifyOptions, _Mapping]] = ..., image: _Optional[_Union[StreamImage, _Mapping]] = ...) -> None: ...

class StreamImage(_message.Message):
    __slots__ = ("index", "image")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    index: int
    image: _types_pb2.Image
    def __init__(self, index: _Optional[int] = ..., image: _Optional[_Union[_types_pb2.Image, _Mapping]] = ...) -> None: ...

class ClassifyStreamResponse(_message.Message):
    __slots__ = ("index", "result", "warnings")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    index: int
    result: ClassifyResult
    warnings: _containers.RepeatedCompositeFieldContainer[_types_pb2.Warning]
    def __init__(self, index: _Optional[int] = ..., result: _Optional[_Union[ClassifyResult, _Mapping]] = ..., warnings: _Optional[_Iterable[_Union[_types_pb2.Warning, _Mapping]]] = ...) -> None: ...

class ClassifyResponse(_message.Message):
    __slots__ = ("results", "warnings")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ClassifyResult]
    warnings: _containers.RepeatedCompositeFieldContainer[_types_pb2.Warning]
    def __init__(self, results: _Optional[_Iterable[_Union[ClassifyResult, _Mapping]]] = ..., warnings: _Optional[_Iterable[_Union[_types_pb2.Warning, _Mapping]]] = ...) -> None: ...

class ClassifyResult(_message.Message):
    __slots__ = ("classification", "error")
    CLASSIFICATION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    classification: Classification
    error: _status_pb2.Status
    def __init__(self, classification: _Optional[_Union[Classification, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class Classification(_message.Message):
    __slots__ = ("predictions", "input_size", "route", "timing", "model_digest", "none_of_these", "embedding", "encoder_input", "encoder", "degradations", "none_probability")
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    INPUT_SIZE_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    NONE_OF_THESE_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    ENCODER_INPUT_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    DEGRADATIONS_FIELD_NUMBER: _ClassVar[int]
    NONE_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    predictions: _containers.RepeatedCompositeFieldContainer[_types_pb2.Prediction]
    input_size: _types_pb2.Size
    route: _types_pb2.Route
    timing: _types_pb2.Timing
    model_digest: str
    none_of_these: bool
    embedding: _containers.RepeatedScalarFieldContainer[float]
    encoder_input: bytes
    encoder: _types_pb2.Encoder
    degradations: _containers.RepeatedCompositeFieldContainer[_types_pb2.Degradation]
    none_probability: float
    def __init__(self, predictions: _Optional[_Iterable[_Union[_types_pb2.Prediction, _Mapping]]] = ..., input_size: _Optional[_Union[_types_pb2.Size, _Mapping]] = ..., route: _Optional[_Union[_types_pb2.Route, str]] = ..., timing: _Optional[_Union[_types_pb2.Timing, _Mapping]] = ..., model_digest: _Optional[str] = ..., none_of_these: bool = ..., embedding: _Optional[_Iterable[float]] = ..., encoder_input: _Optional[bytes] = ..., encoder: _Optional[_Union[_types_pb2.Encoder, str]] = ..., degradations: _Optional[_Iterable[_Union[_types_pb2.Degradation, _Mapping]]] = ..., none_probability: _Optional[float] = ...) -> None: ...

class NoneOfThese(_message.Message):
    __slots__ = ("min_cosine", "min_probability", "calibrated")
    MIN_COSINE_FIELD_NUMBER: _ClassVar[int]
    MIN_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    CALIBRATED_FIELD_NUMBER: _ClassVar[int]
    min_cosine: float
    min_probability: float
    calibrated: bool
    def __init__(self, min_cosine: _Optional[float] = ..., min_probability: _Optional[float] = ..., calibrated: bool = ...) -> None: ...

class GetModelInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetModelInfoResponse(_message.Message):
    __slots__ = ("model_info",)
    MODEL_INFO_FIELD_NUMBER: _ClassVar[int]
    model_info: ModelInfo
    def __init__(self, model_info: _Optional[_Union[ModelInfo, _Mapping]] = ...) -> None: ...

class NamedSet(_message.Message):
    __slots__ = ("name", "values")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    name: str
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., values: _Optional[_Iterable[str]] = ...) -> None: ...

class ModelInfo(_message.Message):
    __slots__ = ("name", "digest", "image_architecture", "image_size_px", "embed_dim", "upscaler_architecture", "canvas_sizes_px", "native_min_side_px", "logit_scale", "logit_bias", "scoring_function", "context_length", "default_templates", "label_sets", "template_sets", "limits", "artifacts", "gateway_version", "route_rules", "upscale_recipes", "degradation_kinds", "restorer", "has_auto_encoder", "none_of_these")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    IMAGE_ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SIZE_PX_FIELD_NUMBER: _ClassVar[int]
    EMBED_DIM_FIELD_NUMBER: _ClassVar[int]
    UPSCALER_ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    CANVAS_SIZES_PX_FIELD_NUMBER: _ClassVar[int]
    NATIVE_MIN_SIDE_PX_FIELD_NUMBER: _ClassVar[int]
    LOGIT_SCALE_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_FIELD_NUMBER: _ClassVar[int]
    SCORING_FUNCTION_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_TEMPLATES_FIELD_NUMBER: _ClassVar[int]
    LABEL_SETS_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_SETS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    ARTIFACTS_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_VERSION_FIELD_NUMBER: _ClassVar[int]
    ROUTE_RULES_FIELD_NUMBER: _ClassVar[int]
    UPSCALE_RECIPES_FIELD_NUMBER: _ClassVar[int]
    DEGRADATION_KINDS_FIELD_NUMBER: _ClassVar[int]
    RESTORER_FIELD_NUMBER: _ClassVar[int]
    HAS_AUTO_ENCODER_FIELD_NUMBER: _ClassVar[int]
    NONE_OF_THESE_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: str
    image_architecture: str
    image_size_px: int
    embed_dim: int
    upscaler_architecture: str
    canvas_sizes_px: _containers.RepeatedScalarFieldContainer[int]
    native_min_side_px: int
    logit_scale: float
    logit_bias: float
    scoring_function: str
    context_length: int
    default_templates: str
    label_sets: _containers.RepeatedCompositeFieldContainer[NamedSet]
    template_sets: _containers.RepeatedCompositeFieldContainer[NamedSet]
    limits: _types_pb2.Limits
    artifacts: _containers.RepeatedCompositeFieldContainer[_types_pb2.Artifact]
    gateway_version: str
    route_rules: _containers.RepeatedCompositeFieldContainer[RouteRule]
    upscale_recipes: _containers.RepeatedScalarFieldContainer[_types_pb2.UpscaleRecipe]
    degradation_kinds: _containers.RepeatedScalarFieldContainer[str]
    restorer: RestorerInfo
    has_auto_encoder: bool
    none_of_these: NoneOfTheseInfo
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[str] = ..., image_architecture: _Optional[str] = ..., image_size_px: _Optional[int] = ..., embed_dim: _Optional[int] = ..., upscaler_architecture: _Optional[str] = ..., canvas_sizes_px: _Optional[_Iterable[int]] = ..., native_min_side_px: _Optional[int] = ..., logit_scale: _Optional[float] = ..., logit_bias: _Optional[float] = ..., scoring_function: _Optional[str] = ..., context_length: _Optional[int] = ..., default_templates: _Optional[str] = ..., label_sets: _Optional[_Iterable[_Union[NamedSet, _Mapping]]] = ..., template_sets: _Optional[_Iterable[_Union[NamedSet, _Mapping]]] = ..., limits: _Optional[_Union[_types_pb2.Limits, _Mapping]] = ..., artifacts: _Optional[_Iterable[_Union[_types_pb2.Artifact, _Mapping]]] = ..., gateway_version: _Optional[str] = ..., route_rules: _Optional[_Iterable[_Union[RouteRule, _Mapping]]] = ..., upscale_recipes: _Optional[_Iterable[_Union[_types_pb2.UpscaleRecipe, str]]] = ..., degradation_kinds: _Optional[_Iterable[str]] = ..., restorer: _Optional[_Union[RestorerInfo, _Mapping]] = ..., has_auto_encoder: bool = ..., none_of_these: _Optional[_Union[NoneOfTheseInfo, _Mapping]] = ...) -> None: ...

class NoneOfTheseInfo(_message.Message):
    __slots__ = ("name_count", "threshold", "false_refusals", "auroc", "expected_calibration_error")
    NAME_COUNT_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    FALSE_REFUSALS_FIELD_NUMBER: _ClassVar[int]
    AUROC_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_CALIBRATION_ERROR_FIELD_NUMBER: _ClassVar[int]
    name_count: int
    threshold: float
    false_refusals: float
    auroc: float
    expected_calibration_error: float
    def __init__(self, name_count: _Optional[int] = ..., threshold: _Optional[float] = ..., false_refusals: _Optional[float] = ..., auroc: _Optional[float] = ..., expected_calibration_error: _Optional[float] = ...) -> None: ...

class RestorerInfo(_message.Message):
    __slots__ = ("architecture", "kinds", "default_steps", "max_steps")
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_STEPS_FIELD_NUMBER: _ClassVar[int]
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    architecture: str
    kinds: _containers.RepeatedCompositeFieldContainer[DamageKind]
    default_steps: int
    max_steps: int
    def __init__(self, architecture: _Optional[str] = ..., kinds: _Optional[_Iterable[_Union[DamageKind, _Mapping]]] = ..., default_steps: _Optional[int] = ..., max_steps: _Optional[int] = ...) -> None: ...

class DamageKind(_message.Message):
    __slots__ = ("name", "words")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    words: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., words: _Optional[_Iterable[str]] = ...) -> None: ...

class RouteRule(_message.Message):
    __slots__ = ("max_side_px", "is_lossy", "route", "upscaled_agreement", "native_agreement", "n_images", "max_noise")
    MAX_SIDE_PX_FIELD_NUMBER: _ClassVar[int]
    IS_LOSSY_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    UPSCALED_AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    NATIVE_AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    N_IMAGES_FIELD_NUMBER: _ClassVar[int]
    MAX_NOISE_FIELD_NUMBER: _ClassVar[int]
    max_side_px: int
    is_lossy: bool
    route: _types_pb2.Route
    upscaled_agreement: float
    native_agreement: float
    n_images: int
    max_noise: float
    def __init__(self, max_side_px: _Optional[int] = ..., is_lossy: bool = ..., route: _Optional[_Union[_types_pb2.Route, str]] = ..., upscaled_agreement: _Optional[float] = ..., native_agreement: _Optional[float] = ..., n_images: _Optional[int] = ..., max_noise: _Optional[float] = ...) -> None: ...
