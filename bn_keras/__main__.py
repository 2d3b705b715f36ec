"""`python -m bn_keras`: the command line."""

import sys

from bn_keras.cli import main

sys.exit(main())
