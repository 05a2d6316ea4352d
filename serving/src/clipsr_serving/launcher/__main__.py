"""Lets `python -m clipsr_serving.launcher` do what `clipsr-serve` does."""

from __future__ import annotations

import sys

from clipsr_serving.launcher import main

sys.exit(main())
