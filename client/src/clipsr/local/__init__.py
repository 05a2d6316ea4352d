"""Classification in this process, without any service: the exported models, with the types of the client.

Needs the extra: `pip install 'clipsr[local]'`. Nothing outside of this package imports the models, and the client never
imports this package.
"""

from __future__ import annotations

try:
    from clipsr.local._classifier import Classifier
except ModuleNotFoundError as missing:
    raise ImportError(f"clipsr.local needs {missing.name}: pip install 'clipsr[local]'") from missing

__all__ = ["Classifier"]
