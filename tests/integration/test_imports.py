"""What is loaded, and what is not."""

from __future__ import annotations

import subprocess
import sys


def test_checking_loads_nothing_that_is_slow_to_import() -> None:
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}; before = set(sys.modules);"
        "from portfree._core import settings;"
        "settings.check('scope', 'any', ''); settings.check('grace', 1, '');"
        "print(*sorted(set(sys.modules) - before))"
    )
    # Without site (-S), which would load what start-up hooks of other packages ask for.
    loaded = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )

    assert not {"difflib", "logging", "argparse", "pathlib", "psutil"} & set(loaded.stdout.split())
