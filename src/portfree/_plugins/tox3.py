"""For tox 3, which the plugin does not support: inert, but where ports are to be freed."""

from __future__ import annotations

import os
from typing import Any

import pluggy

# With these no command is run; run_provision: another tox will run them.
_ONLY_LOOKS = ("listenvs", "listenvs_all", "showconfig", "notest", "help_ini", "run_provision")


@pluggy.HookimplMarker("tox")
def tox_configure(config: Any) -> None:  # noqa: ANN401 - tox 3 has no types
    """Refuse to run an environment whose ports would not be freed."""
    looks = any(
        getattr(where, name, False) for where in (config, config.option) for name in _ONLY_LOOKS
    )
    if looks or os.environ.get("PORTFREE") == "0":
        return
    for name in config.envlist:
        if _has_ports(config.envconfigs.get(name)):
            raise SystemExit(
                f"portfree: environment {name} has free_ports, which needs tox 4 or newer: "
                "pip install --upgrade tox, or write requires = tox>=4 under [tox]"
            )


def _has_ports(environment: Any) -> bool:  # noqa: ANN401
    from tox.exception import Error  # type: ignore[import-not-found]

    reader = getattr(environment, "_reader", None)
    try:
        return reader is not None and bool(reader.getstring("free_ports", ""))
    except Error:  # a substitution that fails: there is something
        return True
