"""`python -m siamese_mrcnn_tf` is the `siamese-mrcnn` command."""

import sys

from .cli.main import main

sys.exit(main())
