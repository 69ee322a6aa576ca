"""What a run of jobs cost: CPU of the workers and of Redis, commands, reads and bytes, divided by the jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from redis import Redis

from benchmarks.speed.fleet import Cpu, Fleet

SCRIPT_CALLS = ("cmdstat_eval", "cmdstat_evalsha", "cmdstat_fcall")


@dataclass(frozen=True, slots=True)
class Meter:
    """The counters at one moment."""

    cpu: Cpu
    redis_s: float
    commands: int  # those within scripts too
    scripts: int
    reads: int  # of sockets: with one client, the round trips
    bytes_in: int
    bytes_out: int

    @classmethod
    def read(cls, client: Redis, fleet: Fleet) -> Meter:
        """All counters now."""
        info: dict[str, Any] = client.info("everything")
        calls = {name: shown["calls"] for name, shown in info.items() if name.startswith("cmdstat_")}
        return cls(
            cpu=fleet.cpu(),
            redis_s=info["used_cpu_user"] + info["used_cpu_sys"],
            commands=sum(calls.values()),
            scripts=sum(calls.get(name, 0) for name in SCRIPT_CALLS),
            reads=info["total_reads_processed"],
            bytes_in=info["total_net_input_bytes"],
            bytes_out=info["total_net_output_bytes"],
        )

    def per_job(self, before: Meter, jobs: int) -> dict[str, float]:
        """What one job cost between two readings. The harness' own looks at the server are in it, some dozens."""
        cpu = self.cpu.since(before.cpu)
        return {
            "worker_us": round(cpu.roots * 1e6 / jobs, 1),
            "below_us": round(cpu.below * 1e6 / jobs, 1),
            "redis_us": round((self.redis_s - before.redis_s) * 1e6 / jobs, 1),
            "commands": round((self.commands - before.commands) / jobs, 2),
            "scripts": round((self.scripts - before.scripts) / jobs, 3),
            "reads": round((self.reads - before.reads) / jobs, 3),
            "net_bytes": round((self.bytes_in + self.bytes_out - before.bytes_in - before.bytes_out) / jobs),
        }
