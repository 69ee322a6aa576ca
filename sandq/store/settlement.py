"""What became of an attempt, as the arguments of settle.lua."""

from __future__ import annotations

import msgspec

from sandq.config import Keep, QueueSettings
from sandq.outcome import Place, Settlement
from sandq.store.call import Arg


def finish_args(settings: QueueSettings) -> dict[str, Arg]:
    """What holds for all settlements of a call: how many finished jobs stay, and how many minutes are counted."""
    return {
        "keep_completed": "" if settings.keep_completed is None else _keep_json(settings.keep_completed),
        "keep_failed": "" if settings.keep_failed is None else _keep_json(settings.keep_failed),
        "points": settings.metrics_points,
    }


def settlement_args(settlement: Settlement) -> tuple[str, str | bytes, bytes]:
    """Where the job goes, its result or else the reason, and what few settlements say beyond that as one JSON text."""
    value = settlement.result if settlement.to is Place.COMPLETED else settlement.reason or ""
    return settlement.to.value, value, _more(settlement)


def _more(settlement: Settlement) -> bytes:
    said: dict[str, str] = {}
    if settlement.front:
        said["front"] = "1"
    if settlement.spends_attempt and settlement.to in (Place.WAIT, Place.DELAYED):
        said["spends"] = "1"
    if settlement.counts:
        said["counts"] = settlement.counts
    if settlement.stacktrace is not None:
        said["stacktrace"] = msgspec.json.encode(settlement.stacktrace).decode()
    if settlement.to is Place.DELAYED:
        said["delay_ms"] = str(max(0, round(settlement.delay_s * 1000)))
    if settlement.limit_s > 0:
        said["limit_ms"] = str(max(1, round(settlement.limit_s * 1000)))
    if settlement.death is not None:
        said["death"] = msgspec.json.encode(settlement.death).decode()
    return msgspec.json.encode(said) if said else b""


def _keep_json(keep: Keep) -> bytes:
    bounds = {"count": keep.count, "age": keep.age_s, "limit": keep.limit}
    return msgspec.json.encode({name: bound for name, bound in bounds.items() if bound is not None})
