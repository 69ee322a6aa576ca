"""The one limit that is a job's and not its child's: CPU seconds, counted anew for each job."""

from __future__ import annotations

import math
import resource
import time


def limit_cpu(seconds: float) -> None:
    """From now on this process may use so many CPU seconds, all threads together; then SIGXCPU ends it.

    The kernel counts whole seconds, so up to one more may pass.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = math.ceil(time.process_time() + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
