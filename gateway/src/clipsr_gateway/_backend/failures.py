"""What Triton says of a failed request, as the error of the decision it calls for."""

from __future__ import annotations

import re

from clipsr_gateway.errors import (
    BackendFaultError,
    BackendUnavailableError,
    DeadlineExceededError,
    GatewayError,
    ImageRejectedError,
    InvalidRequestError,
    Violation,
)

# Where a request holds what a reason of the models speaks of: texts are labels in templates there.
_FIELDS = {"LABEL": "labels", "TEMPLATE": "templates", "TEXT": "texts", "FIT": "fit"}
_CLASSIFY_FIELDS = {
    "LABEL": "options.label_space.labels",
    "TEMPLATE": "options.label_space.templates",
    "TEXT": "options.label_space",
    "FIT": "options.fit",
}

# Python models prefix what is meant for the caller; an ensemble may wrap it in its own sentence. What is wrong with an
# image is often seen only there; what is wrong with the rest only where the models are stricter than this gateway.
_REJECTION = re.compile(
    r"clipsr:((?:IMAGE_|(?P<noun>LABEL|TEXT|TEMPLATE|FIT)S?_(?!ENCODER)|TOO_MANY_(?P<nouns>LABEL|TEXT|TEMPLATE)S)[A-Z_0-9]*)"
    r": ([^\n]*)"
)
_PART_AWAY = "clipsr:BACKEND_UNAVAILABLE: "


def error_of_failure(status: str, message: str, *, target: str, model_name: str) -> GatewayError:
    """Return the error to raise.

    Args:
        status: name of the gRPC status, such as "UNAVAILABLE".
        message: Triton's.
        target: HOST:PORT of Triton.
        model_name: of the model that was asked.
    """
    if rejection := _REJECTION.search(message):
        reason, text = rejection[1], rejection[4].strip()
        noun = rejection["noun"] or rejection["nouns"]
        if noun is None:
            return ImageRejectedError(reason, text)
        field = (_CLASSIFY_FIELDS if model_name.startswith("classify") else _FIELDS)[noun]
        return InvalidRequestError([Violation(field=field, reason=reason, message=text)])
    if _PART_AWAY in message:
        part = "restorer" if model_name == "restore" else "text encoder"
        text = f"The {part} of Triton at {target} does not answer; retry, or look at its log."
        return BackendUnavailableError(target, text)
    if status == "UNAVAILABLE" and "model" not in message.lower():
        text = f"Triton at {target} does not answer; it is down or still starting. Retry, or look at its log."
        return BackendUnavailableError(target, text)
    if status in ("UNAVAILABLE", "NOT_FOUND"):
        text = f"Triton at {target} has not loaded model {model_name!r}; it is still starting or failed to load it."
        return BackendUnavailableError(target, text)
    if status == "DEADLINE_EXCEEDED":
        return DeadlineExceededError("The deadline passed while the request was in Triton.")
    return BackendFaultError(f"Triton answered {status}: {message}")
