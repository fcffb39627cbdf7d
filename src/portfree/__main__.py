"""``python -m portfree``: the same as the command ``portfree``."""

from __future__ import annotations

import sys

from portfree._cli.main import main

sys.exit(main())
