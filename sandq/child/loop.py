"""The life of a child: load one processor, then run one job at a time until told goodbye."""

from __future__ import annotations

import fcntl
import sys
import termios
import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from types import CoroutineType, ModuleType
from typing import Any

from sandq.child.channel import Channel
from sandq.child.context import JobContext, PostponeJob
from sandq.child.encode import describe, no_json, place, to_json
from sandq.child.fingerprint import Fingerprint
from sandq.child.limits import limit_cpu
from sandq.child.resolve import Handler, Processor, resolve
from sandq.errors import ProcessorError, SoftTimeout, UnrecoverableError
from sandq.protocol import Frame, Kind

_HARMLESS = (Kind.DONE, Kind.RAISED)  # after other ends the supervisor has to decide before another job begins
_NONE = bytes(4)


def serve(channel: Channel, imported: Processor | None = None) -> None:
    """Answer LOAD with READY or BROKEN, every RUN with one final frame, and return after BYE or end of file.

    A template's child has imported its processor already.
    """
    processor: Processor | None = None
    own: Fingerprint | None = None
    terms: Mapping[str, Any] = {}
    while True:
        try:
            frame = channel.receive()
        except EOFError:
            return
        if frame.kind is Kind.RUN and processor is not None and own is not None:
            following: Frame | None = frame
            while following is not None:
                final = _run(channel, processor, following, terms)
                following = _finish(channel, final, own.restore(terms["may_leave"]))
        elif frame.kind is Kind.LOAD:
            processor = load(channel, partial(_set_up, imported, frame))
            if processor is None:
                return
            own = Fingerprint()
            terms = frame.head["terms"]
        elif frame.kind is Kind.BYE:
            if processor is not None and processor.teardown is not None:
                _call(processor.teardown)
            return


def load(channel: Channel, make: Callable[[], Processor]) -> Processor | None:
    """Make the processor and say READY, or say BROKEN and why."""
    started = time.monotonic()
    try:
        processor = make()
    except BaseException as error:  # noqa: BLE001  # a module may raise anything while it is imported, SystemExit too
        text, trace = describe(error)
        if isinstance(error, ProcessorError):
            text = str(error)
        else:
            text += place(error)
        channel.send(Frame(Kind.BROKEN, head={"error": text, "traceback": trace}))
        return None
    head = {
        "names": sorted(processor.named),
        "any_name": processor.default is not None,
        "load_s": round(time.monotonic() - started, 4),
    }
    channel.send(Frame(Kind.READY, head=head))
    return processor


def find(frame: Frame) -> Processor:
    """The processor that a LOAD frame names or carries."""
    return _unpickle(frame) if frame.body else resolve(frame.head["target"], frame.head["function"])


def _set_up(imported: Processor | None, frame: Frame) -> Processor:
    processor = imported or find(frame)
    if processor.setup is not None:
        _call(processor.setup)
    return processor


def _unpickle(frame: Frame) -> Processor:
    """A callable from the supervisor's own process. Never the other way round, and never from Redis."""
    import cloudpickle

    # Functions of importable modules travel by reference: their modules are found where the host found them.
    sys.path.extend(path for path in frame.head["sys_path"] if path not in sys.path)
    return Processor(default=cloudpickle.loads(frame.body))


def _run(channel: Channel, processor: Processor, frame: Frame, terms: Mapping[str, Any]) -> Frame:
    if "logging" in sys.modules:  # whoever does not use it does not pay for it
        _records().install()
    if (cpu_s := terms["cpu_s"]) is not None:
        limit_cpu(cpu_s)
    return run_handler(channel, processor, frame, terms)


@cache
def _records() -> ModuleType:
    """Imported once: the statement finds it anew each time, which takes longer than installing."""
    from sandq.child import records

    return records


def run_handler(channel: Channel, processor: Processor, frame: Frame, terms: Mapping[str, Any]) -> Frame:
    """The final frame of a job, whatever its handler does; nothing else of this process is touched."""
    nonce = frame.nonce
    handler = processor.handler(frame.head["name"])
    if handler is None:
        return Frame(Kind.UNKNOWN, nonce, {"known": sorted(processor.named)})
    try:
        job = JobContext(channel, frame, terms["max_data"])
        result = _attempt(channel, handler, job)
        try:
            body = to_json(result)
        except (TypeError, ValueError, RecursionError) as error:
            # Nothing of the handler's raised: a traceback would only show the encoder at work.
            head = {"error": no_json(result, error), "traceback": "", "permanent": False, "stopped": False}
            return Frame(Kind.RAISED, nonce, head)
    except PostponeJob as wish:
        return Frame(Kind.POSTPONED, nonce, {"until": wish.until, "delay_s": wish.delay_s})
    except BaseException as error:  # noqa: BLE001  # the handler's door: whatever it raises is the job's outcome, not ours
        text, trace = describe(error)
        head = {
            "error": text,
            "traceback": trace,
            "permanent": isinstance(error, UnrecoverableError),
            "stopped": isinstance(error, SoftTimeout),
        }
        return Frame(Kind.RAISED, nonce, head)
    finally:
        _flush()
    if len(body) > terms["max_result"]:
        return Frame(Kind.OVERSIZE, nonce, {"size": len(body)})
    return Frame(Kind.DONE, nonce, {}, body)


def _finish(channel: Channel, final: Frame, unfit: str) -> Frame | None:
    """Say how the job ended, and which job begins now: the one in the mailbox, if there is one and it may begin."""
    if unfit:  # what the job left behind travels with its outcome: no other job must meet it
        channel.send(final._replace(head={**final.head, "unfit": unfit}))
        return None
    may_follow = channel.has_mailbox and final.kind in _HARMLESS and _all_is_read()
    following = channel.take() if may_follow else None
    if following is None:
        channel.send(final)
    else:
        channel.send_all(final, Frame(Kind.BEGUN, following.nonce))
    return following


def _all_is_read() -> bool:
    """Whether all output so far has been read: what is read after this moment can then only be the next job's."""
    try:
        return all(fcntl.ioctl(fd, termios.FIONREAD, _NONE) == _NONE for fd in (1, 2))
    except OSError:  # not the pipes that we were given
        return False


def _attempt(channel: Channel, handler: Handler, job: JobContext) -> Any:
    channel.open_job(job._nonce)
    try:
        return _call(handler, job)
    finally:
        channel.close_job()


def _call(function: Any, *args: Any) -> Any:
    result = function(*args)
    if isinstance(result, CoroutineType):
        import asyncio

        return asyncio.run(result)
    return result


def _flush() -> None:
    """What the handler printed belongs to its job: push it out before the final frame."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # noqa: BLE001, S112  # closed, None or the job's own: there is nothing to push out
            continue
