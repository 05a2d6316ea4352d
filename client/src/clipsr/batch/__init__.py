"""Label any number of images on Ray Data (the extra `clipsr[batch]`): by services, or by the models in each worker.

`clipsr-batch classify` is the command; `classify_dataset` is the same on a Dataset of one's own.
"""

from __future__ import annotations

from clipsr.batch._dataset import classify_dataset
from clipsr.batch._models import LocalModels, Service

__all__ = ["LocalModels", "Service", "classify_dataset"]
