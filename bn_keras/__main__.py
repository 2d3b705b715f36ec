"""`python -m bn_keras`: the command line."""

import signal
import sys

from bn_keras.cli import main

signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
sys.exit(main())
