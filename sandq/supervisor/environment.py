"""What a launcher and a child may see of the supervisor's environment."""

from __future__ import annotations

import os
from collections.abc import Sequence

# Never SANDQ_*: a Redis URL may stand there.
ALLOWED_ENV = frozenset(
    [
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "LANG",
        "LANGUAGE",
        "TZ",
        "TMPDIR",
        "TEMP",
        "TMP",
        "PYTHONPATH",
        "PYTHONHOME",
        "PYTHONHASHSEED",
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONPYCACHEPREFIX",
        "PYTHONUTF8",
        "PYTHONWARNINGS",
        "VIRTUAL_ENV",
        "LD_LIBRARY_PATH",
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
    ]
)


def child_env(extra: Sequence[str] = ()) -> dict[str, str]:
    """The environment of a child: the allow-list, locale settings, and the variables that the queue declares."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in ALLOWED_ENV or name.startswith("LC_") or (name in extra and not name.startswith("SANDQ_"))
    }
