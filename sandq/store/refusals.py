"""Which of Redis' errors may pass by themselves, and what to do about those that do not."""

from __future__ import annotations

import socket

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from sandq.errors import StoreRefused

# ASK is waited out, never followed. Scripts use keys they do not declare, and during a migration those are on two
# servers. The base that every script declares is no key, so the old server answers ASK until the slot has moved.
_PASSING = (BusyLoadingError, ClusterDownError, TryAgainError, ReadOnlyError, MovedError, AskError, NoScriptError)
# UNBLOCKED: a blocking command was ended because its server was demoted.
_PASSING_WORDS = ("BUSY", "LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "UNBLOCKED")

_CLASSES = (
    (NoPermissionError, "NOPERM"),
    (AuthorizationError, "NOPERM"),
    (AuthenticationError, "NOAUTH"),
    (OutOfMemoryError, "OOM"),
    (ClusterCrossSlotError, "CROSSSLOT"),
)
_PHRASES = (  # what fails inside a script may come wrapped in a message of its own
    ("WRONGTYPE", "WRONGTYPE"),
    ("OOM command not allowed", "OOM"),
    ("ACL failure", "NOPERM"),
    ("The user executing the script", "NOPERM"),
    ("NOPERM", "NOPERM"),
    ("non local key", "CROSSSLOT"),
    ("do not hash to the same slot", "CROSSSLOT"),
)
_FIXES = {
    "WRONGTYPE": "something else is kept under a key of this queue; choose another queue name or prefix",
    "NOPERM": "give the Redis user of this URL the missing permission with ACL SETUSER",
    "NOAUTH": "put the right user and password into the Redis URL",
    "OOM": "Redis is at its maxmemory; raise it, or remove finished jobs",
    "CROSSSLOT": "on a cluster the prefix or the queue name must carry a hash tag, such as {render}",
    "": "look at the message and at Redis' own log",
}


def verdict(error: BaseException) -> str | None:
    """The word for an error that repeating cannot change ("" when it has none); None when it may pass."""
    if isinstance(error.__cause__, RedisError):
        return verdict(error.__cause__)  # redis-py wraps what a handshake over a unix socket was answered
    for kind, word in _CLASSES:
        if isinstance(error, kind):
            return word
    if not isinstance(error, ResponseError) or isinstance(error, _PASSING):
        return None
    text = str(error)
    if text.startswith(_PASSING_WORDS) or any(f"-{word} " in text for word in _PASSING_WORDS):
        return None
    return next((word for phrase, word in _PHRASES if phrase in text), "")


def refused(what: str, shown: str, error: BaseException, word: str) -> StoreRefused:
    """One line: what was asked, what Redis said, what to do next."""
    return StoreRefused(f"{what}: Redis at {shown} refused: {_text(error)}; {_FIXES[word]}")


def silent(shown: str, error: BaseException) -> str:
    """What to say of a Redis that cannot be reached, or does not answer."""
    fix = "check the host in its URL" if is_unknown_host(error) else "is it running and reachable?"
    return f"Redis at {shown} does not answer: {_text(error)}; {fix}"


def is_unknown_host(error: BaseException) -> bool:
    """The name of the host is nobody's, as far as can be told: asking again soon does not change that."""
    origin = error.__cause__ or error.__context__  # redis-py tells of it with an error of its own
    found = error if isinstance(error, socket.gaierror) else origin
    return isinstance(found, socket.gaierror) and found.errno in (socket.EAI_NONAME, socket.EAI_NODATA)


def _text(error: BaseException) -> str:
    return str(error).rstrip(". ") or type(error).__name__
