"""For tox 3, which the plugin does not support: inert, but where ports are to be freed."""

from __future__ import annotations

from typing import Any

import pluggy


@pluggy.HookimplMarker("tox")
def tox_configure(config: Any) -> None:  # noqa: ANN401 - tox 3 has no types
    """Refuse to run an environment whose ports would not be freed."""
    if getattr(config, "run_provision", False):
        return  # another tox will run the environments
    for name in config.envlist:
        environment = config.envconfigs.get(name)
        reader = getattr(environment, "_reader", None)
        if reader is not None and reader.getstring("free_ports", ""):
            raise SystemExit(
                f"portfree: environment {name} has free_ports, which needs tox 4 or newer: "
                "pip install --upgrade tox, or write requires = tox>=4 under [tox]"
            )
