"""Where a Redis URL leads, read before anything is connected."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from redis import connection as client
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError

from sandq.errors import ConfigError, QueueError
from sandq.store.call import Arg

SCHEMES = "redis://, rediss://, unix://, redis+sentinel://host1,host2/master[/db], redis+cluster://host1,host2"
EMBEDDED = "embedded"

Kind = Literal["", "sentinel", "cluster"]
Form = Literal["redis", "rediss", "unix"]

_PORTS = {"": 6379, "sentinel": 26379, "cluster": 6379}
_CLASSES = {
    "redis": client.Connection,
    "rediss": client.SSLConnection,
    "unix": client.UnixDomainSocketConnection,
}
# Not for a URL to say: patience, retries and the form of replies are the executors', names the supervisor's.
_OURS = frozenset(
    [
        *("socket_timeout", "socket_connect_timeout", "timeout", "retry_on_timeout", "retry_on_error"),
        *("max_connections", "protocol", "decode_responses", "legacy_responses", "client_name"),
        *("sentinel_username", "sentinel_password"),
    ]
)
_SECRETS = re.compile(r"([?&](?:[a-z_]*password)=)[^&#]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URL leads. Sentinels and cluster nodes are `seeds`: they are asked for the place to go to."""

    shown: str  # the URL without its passwords
    kind: Kind
    form: Form
    seeds: tuple[Mapping[str, Any], ...]  # each {"host", "port"} or {"path"}
    options: Mapping[str, Any] = field(repr=False)  # user, password, db, TLS
    seed_options: Mapping[str, Any] = field(repr=False)  # the same for asking a seed
    master: str = ""  # the name by which sentinels know it

    def lane(self, key: str) -> str:
        """Keys of one lane are reached over one connection: on a cluster that is a hash slot, else everything."""
        return str(key_slot(key.encode())) if self.kind == "cluster" else ""

    def question(self) -> tuple[Arg, ...]:
        """What to ask a seed."""
        return ("CLUSTER", "SLOTS") if self.kind == "cluster" else ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.master)

    def place(self, key: str, seed: Mapping[str, Any], reply: Any) -> Mapping[str, Any] | None:
        """Read a seed's answer; None when it does not know."""
        if self.kind == "sentinel":
            return {"host": reply[0].decode(), "port": int(reply[1])} if reply else None
        slot = key_slot(key.encode())
        for first, last, owner, *_ in reply or ():
            if first <= slot <= last:
                # A node that does not know its own address leaves it empty: it is the one that was asked.
                return {"host": owner[0].decode() if owner[0] else seed["host"], "port": int(owner[1])}
        return None

    def unknown(self) -> RedisConnectionError:
        """What to raise when no seed knew."""
        if self.kind == "sentinel":
            return RedisConnectionError(f"no sentinel knows a master {self.master!r}")
        return RedisConnectionError("no node of the cluster serves this queue's slot")


def redact(url: str) -> str:
    """The URL with every password replaced, fit for a message or a log."""
    head, at, rest = url.rpartition("@")
    scheme, mark, who = head.partition("://")
    if at and mark:
        user, colon, _ = who.partition(":")
        url = f"{scheme}://{user}{':***' if colon else ''}@{rest}"
    return _SECRETS.sub(r"\1***", url)


def resolve_url(redis: str | None) -> str:
    """The URL given, else SANDQ_REDIS_URL; never a guess: production must not fall into a server nobody named."""
    url = redis or os.environ.get("SANDQ_REDIS_URL")
    if not url:
        raise QueueError(
            f"no Redis named; pass redis='redis://host:6379/0' or set SANDQ_REDIS_URL (or redis={EMBEDDED!r})"
        )
    return url


def parse_url(url: str) -> Target:
    """Read a Redis URL; ConfigError says what is wrong with it, without its passwords."""
    scheme, mark, rest = url.partition("://")
    form, _, kind = scheme.partition("+")
    if not mark or form not in _CLASSES or kind not in _PORTS or (kind and form == "unix"):
        raise ConfigError(f"{redact(url)!r} is not a Redis URL; use one of {SCHEMES}")
    try:
        return _target(redact(url), cast(Form, form), cast(Kind, kind), rest)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"Redis URL {redact(url)}: {error}; use one of {SCHEMES}") from None


def _target(shown: str, form: Form, kind: Kind, rest: str) -> Target:
    master, rest = _take_master(rest) if kind == "sentinel" else ("", rest)
    authority, slash, path = rest.partition("/")
    user, at, hosts = authority.rpartition("@")
    found = [_options(f"{form}://{user}{at}{host}{slash}{path}") for host in (hosts.split(",") if kind else [hosts])]
    seeds = tuple(_take_place(options, form, kind) for options in found)
    options = {name: value for name, value in found[0].items() if name not in _OURS}
    # Constructed, not connected: an option that does not exist is a TypeError here, not at the first job.
    _CLASSES[form](**seeds[0], **options)
    return Target(shown, kind, form, seeds, options, _seed_options(kind, found[0], options), master)


def _options(url: str) -> dict[str, Any]:
    parse: Any = client.parse_url
    options: dict[str, Any] = parse(url)
    options.pop("connection_class", None)
    return options


def _take_master(rest: str) -> tuple[str, str]:
    """Split `hosts/master/db?query` into the master's name and what redis-py can read."""
    hosts, _, path = rest.partition("/")
    names, mark, query = path.partition("?")
    master, _, db = names.partition("/")
    if not master:
        raise ValueError("the master's name is missing, as in redis+sentinel://host1,host2/mymaster")
    return master, f"{hosts}/{db}{mark}{query}"


def _take_place(options: dict[str, Any], form: Form, kind: Kind) -> Mapping[str, Any]:
    if form == "unix":
        if not options.get("path"):
            raise ValueError("the socket's path is missing, as in unix:///run/redis.sock")
        return {"path": options.pop("path")}
    return {"host": options.pop("host", "localhost"), "port": options.pop("port", _PORTS[kind])}


def _seed_options(kind: Kind, given: Mapping[str, Any], options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Sentinels have users of their own and no databases; cluster nodes are asked as they are used."""
    asked = {name: value for name, value in options.items() if name != "db"}
    if kind == "sentinel":
        for name in ("username", "password"):
            asked.pop(name, None)
            if f"sentinel_{name}" in given:
                asked[name] = given[f"sentinel_{name}"]
    return asked
