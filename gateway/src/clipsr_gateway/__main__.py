from __future__ import annotations

import sys

from clipsr_gateway.cli import main

sys.exit(main())
