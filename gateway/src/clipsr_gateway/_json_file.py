"""JSON files of an operator, parsed strictly: the first fault is told by its field, and no content is repeated."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError


class Strict(BaseModel):
    """Takes numbers for numbers only: no booleans, no strings, neither NaN nor infinity. Unknown fields are ignored."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


class FieldError(ValueError):
    """A document is not as its model wants it; the message continues the field's name.

    Attributes:
        field: path of what is wrong, such as `keys[0].name`; empty for the document itself.
        kind: pydantic's type of error, such as `missing`.
    """

    def __init__(self, field: str, kind: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.kind = kind


_MESSAGES = {"missing": "is missing", "extra_forbidden": "is unknown", "string_pattern_mismatch": "is not well-formed"}

_Model = TypeVar("_Model", bound=Strict)


def parse_json(content: bytes, model: type[_Model]) -> _Model:
    """Parse a JSON document.

    Raises:
        FieldError: it is not JSON (kind `json_invalid`), or a field is missing or wrong.
    """
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).removeprefix(".")
    message = first["msg"].removeprefix("Value error, ").replace("Input should ", "must ")
    raise FieldError(field, first["type"], _MESSAGES.get(first["type"], message))
