"""Frames survive any cutting of the stream, and nothing but frames gets through."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandq.errors import ProtocolError
from sandq.protocol import HEADER, MAX_HEAD, VERSION, Decoder, Frame, Kind, encode

MAX_BODY = 1 << 16

HEADS = {
    Kind.READY: {"names": ["page"], "any_name": False},
    Kind.BROKEN: {"error": "no", "traceback": ""},
    Kind.RAISED: {"error": "no", "traceback": "", "permanent": False, "stopped": False},
    Kind.POSTPONED: {"until": "delay", "delay_s": 1.5},
    Kind.UNKNOWN: {"known": []},
    Kind.OVERSIZE: {"size": 7},
    Kind.LOG: {"level": "INFO"},
    Kind.ADD: {"queue": None, "name": "page", "child": False, "opts": {}, "request": 1},
    Kind.ASK: {"what": "values", "request": 1},
}

from_children = st.builds(
    lambda kind, nonce, body: Frame(kind, nonce, HEADS.get(kind, {}), body),
    st.sampled_from([kind for kind in Kind if kind >= 64]),
    st.integers(0, 2**64 - 1),
    st.binary(max_size=200),
)


def decoder(max_body: int = MAX_BODY) -> Decoder:
    return Decoder(from_child=True, max_body=max_body)


def header(
    *, magic: bytes = b"SQ", version: int = VERSION, kind: int = Kind.DONE, head: int = 2, body: int = 0
) -> bytes:
    return HEADER.pack(magic, version, kind, head, body, 0)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(st.lists(from_children, max_size=5), st.lists(st.integers(0, 10_000), max_size=8))
def test_frames_come_out_as_they_went_in_however_the_stream_is_cut(frames: list[Frame], places: list[int]) -> None:
    receiver = decoder()
    stream = b"".join(map(encode, frames))
    assert [frame for piece in cut(stream, places) for frame in receiver.feed(piece)] == frames


@given(st.lists(st.binary(max_size=64), max_size=6))
def test_random_bytes_raise_nothing_but_protocol_errors(pieces: list[bytes]) -> None:
    receiver = decoder()
    for piece in pieces:
        try:
            receiver.feed(piece)
        except ProtocolError:
            return


@given(from_children, st.integers(0, 10_000), st.integers(0, 255))
def test_a_frame_with_one_changed_byte_is_a_frame_or_a_protocol_error(frame: Frame, place: int, byte: int) -> None:
    data = bytearray(encode(frame))
    data[place % len(data)] = byte
    try:
        assert len(decoder().feed(bytes(data))) <= 1
    except ProtocolError:
        return


@given(st.binary(min_size=1, max_size=40).filter(lambda data: not b"SQ".startswith(data[:2]) and data[:2] != b"SQ"))
def test_bytes_that_do_not_begin_a_frame_are_refused_at_once(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="frame magic"):
        decoder().feed(data)


@pytest.mark.parametrize("sizes", [{"body": MAX_BODY + 1}, {"body": 0xFFFFFFFF}, {"head": MAX_HEAD + 1}])
def test_a_claimed_size_over_the_limit_is_refused_on_the_header_alone(sizes: dict[str, int]) -> None:
    with pytest.raises(ProtocolError, match="are allowed"):
        decoder().feed(header(**sizes))


def test_a_body_of_exactly_the_limit_passes() -> None:
    frame = Frame(Kind.DONE, 1, {}, b"x" * MAX_BODY)
    assert decoder().feed(encode(frame)) == [frame]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (header(version=VERSION + 1), "both sides must run the same sandq"),
        (header(kind=200), "unknown frame kind 200"),
        (header(kind=Kind.RUN), "RUN is not for this side to say"),
        (header(head=2) + b"[]", "is not an object"),
        (header(head=2) + b"\xff\xff", "is not JSON"),
        (header(head=MAX_HEAD) + b"[" * MAX_HEAD, "is not JSON"),
        (header(head=4) + b"{}{}", "is not JSON: something follows it"),
        (header(head=4) + b"{\0}\0", "is not JSON"),
        (header(head=11) + b'{"a":"\xed\xa0\x80"}', "is not JSON"),
        (header(head=14) + b'{"a":"\\ud800"}', "holds half a surrogate pair"),
        (header(kind=Kind.RAISED, head=2) + b"{}", "has no valid 'error'"),
        (header(kind=Kind.OVERSIZE, head=12) + b'{"size":"x"}', "has no valid 'size'"),
    ],
)
def test_every_broken_rule_is_named(data: bytes, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        decoder().feed(data)


@pytest.mark.parametrize("kind", HEADS)
def test_a_child_must_give_every_field_that_the_supervisor_relies_on(kind: Kind) -> None:
    for name in HEADS[kind]:
        poor = {field: value for field, value in HEADS[kind].items() if field != name}
        if kind is Kind.ADD and name == "queue":
            poor["queue"] = 7  # a missing one is its own queue
        with pytest.raises(ProtocolError, match=f"no valid '{name}'"):
            decoder().feed(encode(Frame(kind, 0, poor)))


def test_a_decoder_that_failed_never_works_again() -> None:
    receiver = decoder()
    with pytest.raises(ProtocolError):
        receiver.feed(b"garbage")
    with pytest.raises(ProtocolError, match="frame magic"):
        receiver.feed(encode(Frame(Kind.DONE, 1)))


def test_frames_that_arrive_together_with_a_part_of_the_next_lose_nothing() -> None:
    frames = [Frame(Kind.DONE, nonce, {}, bytes(nonce)) for nonce in range(5)]
    stream = b"".join(map(encode, frames))
    receiver = decoder()
    assert receiver.feed(stream[:-3]) == frames[:-1]
    assert receiver.feed(stream[-3:] + stream) == [frames[-1], *frames]


@pytest.mark.parametrize("cut", [0, 1, 30])
def test_a_broken_frame_behind_a_good_one_breaks_the_stream_and_the_good_one_is_heard(cut: int) -> None:
    receiver, good = decoder(), Frame(Kind.DONE, 1, {}, b"said before")
    stream = encode(good) + b"garbage"
    assert receiver.feed(stream[:cut]) + receiver.feed(stream[cut:]) == [good]
    assert "frame magic" in str(receiver.failed)
    for data in (b"", encode(good)):
        with pytest.raises(ProtocolError, match="frame magic"):
            receiver.feed(data)


def test_a_name_that_is_no_text_reaches_the_child_as_it_is() -> None:
    frame = Frame(Kind.RUN, 3, {"id": "1", "name": "\ud800"}, b"{}")
    assert Decoder(from_child=False, max_body=MAX_BODY).feed(encode(frame)) == [frame]


def test_the_supervisor_speaks_its_own_kinds_to_the_child() -> None:
    frame = Frame(Kind.RUN, 3, {"id": "1"}, b"{}")
    assert Decoder(from_child=False, max_body=MAX_BODY).feed(encode(frame)) == [frame]


plain = st.text() | st.integers()
values = plain | st.booleans() | st.none() | st.sampled_from(Kind) | st.lists(plain, max_size=3)


@given(
    st.dictionaries(st.text(max_size=9), plain, max_size=5) | st.dictionaries(st.text(max_size=9), values, max_size=5)
)
def test_a_head_is_written_as_json_writes_it(fields: dict[str, object]) -> None:
    data = encode(Frame(Kind.RUN, 3, fields))
    assert data[HEADER.size :].decode() == json.dumps(fields, separators=(",", ":"))


def test_a_head_over_the_limit_is_not_sent() -> None:
    with pytest.raises(ProtocolError, match="are allowed"):
        encode(Frame(Kind.LOG, 0, {"level": "x" * MAX_HEAD}))


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3)))
def test_any_json_value_travels_in_a_head(value: object) -> None:
    [frame] = decoder().feed(encode(Frame(Kind.LOG, 0, {"level": "INFO", "value": value})))
    assert json.dumps(frame.head["value"]) == json.dumps(value)
