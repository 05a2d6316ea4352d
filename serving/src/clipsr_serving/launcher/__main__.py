"""Lets ``python -m clipsr_serving.launcher`` do what ``clipsr-serve`` does."""

import sys

from clipsr_serving.launcher import main

sys.exit(main())
