import sys

from clipsr_gateway.cli import main

sys.exit(main())
