"""Settings: what follows from the lock time, and what is refused."""

from __future__ import annotations

import os

import pytest

from sandq.config import Lease, QueueSettings, SupervisorSettings, usable_cores
from sandq.errors import ConfigError


@pytest.mark.parametrize(
    ("lock_s", "renew_every", "renew_try", "kill_after", "fence_after"),
    [(15, 5.0, 2.0, 12.0, 1.0), (2, 0.667, 0.267, 1.6, 0.133)],
)
def test_every_interval_follows_from_the_lock_time(lock_s, renew_every, renew_try, kill_after, fence_after):
    lease = Lease(lock_s)
    assert lease.lock_ms == lock_s * 1000
    assert lease.renew_every_s == pytest.approx(renew_every, abs=0.001)
    assert lease.stalled_every_s == lease.renew_every_s
    assert lease.renew_try_s == pytest.approx(renew_try, abs=0.001)
    assert lease.kill_after_s == pytest.approx(kill_after, abs=0.001)
    assert lease.fence_after_s == pytest.approx(fence_after, abs=0.001)


@pytest.mark.parametrize("lock_s", [1, 2, 15, 600])
def test_a_child_is_dead_before_its_lock_can_pass_on(lock_s):
    lease = Lease(lock_s)
    assert lease.kill_after_s + lease.fence_after_s < lease.lock_s
    # Two renewals may fail in a row, each taking all its time, before the child has to die.
    assert 2 * lease.renew_every_s + lease.renew_try_s <= lease.kill_after_s + 1e-9


@pytest.mark.parametrize("lock_s", [1, 2, 15, 600])
def test_a_job_that_comes_at_the_end_of_its_claims_wait_outlives_a_renewal_that_fails_once(lock_s):
    lease = Lease(lock_s)
    failed = lease.renew_every_s + lease.renew_try_s + lease.fence_after_s  # and is tried again
    assert lease.claim_wait_s + failed + lease.renew_try_s < lease.kill_after_s


def test_a_lock_too_short_to_renew_is_refused():
    with pytest.raises(ConfigError, match=r"lock 0\.5s is too short .* use at least 1s"):
        Lease(0.5)


@pytest.mark.parametrize("name", ["concurrency", "max_data", "max_result"])
def test_a_setting_that_must_be_positive_is_refused_at_0(name):
    with pytest.raises(ConfigError, match=f"{name} is 0; it must be at least 1"):
        QueueSettings(**{name: 0})


@pytest.mark.parametrize("name", ["spares", "max_crashes", "max_interruptions", "max_stalled_count"])
def test_a_budget_may_be_0_but_not_negative(name):
    assert getattr(QueueSettings(**{name: 0}), name) == 0
    with pytest.raises(ConfigError, match=f"{name} is -1; it must not be negative"):
        QueueSettings(**{name: -1})


def test_the_defaults_are_the_documented_ones():
    queue = QueueSettings()
    assert (queue.run_ceiling_s, queue.soft_stop_s, queue.term_stop_s) == (3600, 5, 5)
    assert (queue.max_crashes, queue.max_interruptions, queue.max_stalled_count) == (2, 10, 1)
    assert (queue.max_data, queue.max_result) == (1 << 20, 16 << 20)
    assert queue.concurrency == usable_cores()
    supervisor = SupervisorSettings()
    assert (supervisor.lease.lock_s, supervisor.drain_timeout_s, supervisor.prefix) == (15, 25, "bull")


def test_the_usable_cores_never_exceed_this_process_affinity():
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))


def test_a_narrower_affinity_lowers_the_usable_cores():
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
