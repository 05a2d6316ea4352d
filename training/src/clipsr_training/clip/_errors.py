"""Errors of loading a CLIP checkpoint.

ClipCheckpointError
├── UnknownModelError      OpenCLIP knows no model of that name
├── WeightsNotFoundError   neither a file nor a published tag
├── WeightsFormatError     a file that holds no weights
├── WeightsMismatchError   weights of another model
├── NotFiniteError         weights that are not numbers, as a diverged training leaves them
├── PreprocessError        how images were prepared is not known
└── HubError               a file that is not here can't be fetched
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

# Names to show of a list that may have hundreds.
_SHOWN = 3


class ClipCheckpointError(ValueError):
    """A CLIP checkpoint that can't be used; the message is one line that says what to do."""


class UnknownModelError(ClipCheckpointError):
    """OpenCLIP knows no model of that name, or can't build the one of a folder.

    Attributes:
        suggestions: known names that look like it.
    """

    def __init__(self, model_name: str, suggestions: Sequence[str]) -> None:
        hint = f"did you mean {' or '.join(suggestions)}?" if suggestions else "open_clip.list_models() lists them"
        super().__init__(f"OpenCLIP knows no model {model_name!r}; {hint}")
        self.suggestions = tuple(suggestions)

    @classmethod
    def of_folder(cls, folder: Path, fault: str) -> UnknownModelError:
        """Return the error of a folder that holds another kind of model."""
        error = cls(folder.name, ())
        error.args = (f"{folder} {fault}",)
        return error


class WeightsNotFoundError(ClipCheckpointError, FileNotFoundError):
    """What was named as weights is neither a file nor a published tag of the model."""

    def __init__(self, model_name: str, weights: str, tags: Sequence[str]) -> None:
        known = f"its tags are {', '.join(tags)}" if tags else "none are published for it"
        super().__init__(f"no such file: {weights}; nor are these published weights of {model_name} ({known})")


class WeightsFormatError(ClipCheckpointError):
    """A file that can't be read as weights."""


class WeightsMismatchError(ClipCheckpointError):
    """Weights that don't fit the model.

    Attributes:
        missing: names that the model has and the file lacks.
        unexpected: names that the file has and the model lacks.
        reshaped: names that both have, in different shapes.
    """

    def __init__(
        self, weights: str, model_name: str, missing: Sequence[str], unexpected: Sequence[str], reshaped: Sequence[str]
    ) -> None:
        parts = [
            f"{len(names)} {kind} ({', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''})"
            for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
            if names
        ]
        super().__init__(
            f"{weights} does not fit {model_name}: {'; '.join(parts)}; name the model that the weights belong to"
        )
        self.missing, self.unexpected, self.reshaped = tuple(missing), tuple(unexpected), tuple(reshaped)


class NotFiniteError(ClipCheckpointError):
    """Weights of which some are infinite or not a number."""


class PreprocessError(ClipCheckpointError):
    """Published weights of a model are prepared in several ways, and the file does not say which is its own."""


class HubError(ClipCheckpointError):
    """A file could not be fetched from a hub."""
