"""What can go wrong in this distribution, and what the caller can do about it.

ServingError
├── InputError          the request's own fault: answered to that request alone, with a reason and a sentence
├── ArtifactError       a file that export writes is missing or contradicts itself: run `make export`
├── ModelLoadError      a model cannot be served the way its config.pbtxt says: change the config or the file
├── ModelCallError      another model did not answer: try again, or look into Triton's log
├── ModelOutputError    a model gives numbers that are none: export one whose weights are sound
├── RequestCancelledError   nobody waits for the answer any more
└── LaunchError         clipsr-serve cannot do what was asked: the sentence ends in the cure
"""

from __future__ import annotations

__all__ = [
    "ArtifactError",
    "InputError",
    "LaunchError",
    "ModelCallError",
    "ModelLoadError",
    "ModelOutputError",
    "RequestCancelledError",
    "ServingError",
]


class ServingError(Exception):
    """Base of every error that this distribution raises on purpose."""


class InputError(ServingError):
    """A request carries something that cannot be served.

    Its text is what crosses Triton: `clipsr:REASON: sentence`. The gateway reads reason and sentence back from it.

    Attributes:
        reason: upper-case word that programs act on, for example `IMAGE_TRUNCATED`.
        message: what is wrong and what to do, for people.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"clipsr:{reason}: {message}")
        self.reason = reason
        self.message = message


class ArtifactError(ServingError):
    """A generated file of the model repository is missing, damaged or of another model."""


class ModelLoadError(ServingError):
    """A model's file does not fit its config.pbtxt or this machine."""


class ModelCallError(ServingError):
    """A call of another model failed; the request may succeed when tried again."""


class RequestCancelledError(ServingError):
    """The caller gave the request up; its work stops."""


class ModelOutputError(ServingError):
    """A model's outputs are not finite."""


class LaunchError(ServingError):
    """clipsr-serve stops here.

    Attributes:
        exit_code: what the process returns to the shell.
    """

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code
