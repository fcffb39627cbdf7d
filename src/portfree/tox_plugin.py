"""The tox plugin: frees the ports of an environment before its commands and after them.

    [testenv]                          [env_run_base]
    free_ports = 8000, 8125/udp        free_ports = ["8000", "8125/udp"]

Keys of an environment: ``free_ports`` and, as on every surface, ``free_ports_scope``, ``_grace``,
``_wait``, ``_on_busy`` and ``_leaks``. Where no environment has ports, nothing happens at all.
"""

from importlib.util import find_spec

if find_spec("tox.plugin"):
    from portfree._plugins.tox4 import (  # noqa: F401 - tox looks for them here
        tox_add_env_config,
        tox_after_run_commands,
        tox_before_run_commands,
        tox_env_teardown,
    )
else:
    from portfree._plugins.tox3 import tox_configure  # noqa: F401
