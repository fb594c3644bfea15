"""Command Sets: `dimse.command`, `dimse.messages`, and the way there through `dimse.assembler`.

Reading raises `RemoteProtocolError` and nothing else. What can be written again reads the same. Every
request that was taken can be answered: its response can be encoded.
"""

from __future__ import annotations

from asyncdicom.dimse.assembler import Assembler, MessageStarted
from asyncdicom.dimse.command import MAXIMUM_ELEMENTS, decode_elements, encode_element, join_elements
from asyncdicom.dimse.messages import Command, CommandField, decode, encode, response_to
from asyncdicom.exceptions import LocalProtocolError, RemoteProtocolError
from fuzz.check import Finding, Head, check, check_equal, pieces, words

HEAD = 2
LAYOUT = "implicit"
MAXIMUM = 65536
LINES = (4000, 1)
MEMORY = (262144, 8)
_STATUSES = (0x0000, 0x0110, 0x0122, 0x0210, 0x0211, 0xA700, 0xB007, 0xFE00, 0xFF00, 0xFFFF)


def _assemble(cuts: list[memoryview]) -> object:
    assembler = Assembler()
    started: list[object] = []
    try:
        for number, view in enumerate(cuts):
            started += assembler.feed(1, True, [view] if view else [], number == len(cuts) - 1)
    except RemoteProtocolError as error:
        return str(error)
    check(len(started) == 1 and isinstance(started[0], MessageStarted), "not one message")
    return started[0]


def _elements(body: bytes) -> None:
    try:
        elements = decode_elements(body)
    except RemoteProtocolError:
        return
    check(len(elements) <= MAXIMUM_ELEMENTS, "too many elements")
    position = 0
    while position < len(body):  # as plainly as can be
        tag, length = (
            int.from_bytes(body[position + 2 : position + 4], "little"),
            body[position + 4 : position + 8],
        )
        position += 8 + int.from_bytes(length, "little")
        check(not tag or len(elements[tag]) == int.from_bytes(length, "little"), "a value of another length")
    check(position == len(body), "an element that goes on behind the end")
    encoded = join_elements([encode_element(*element) for element in sorted(elements.items())])
    check_equal(decode_elements(encoded), elements, "elements there and back")


def _respond(request: Command, status: int) -> None:
    # As the services do: with whatever could go wrong in the comment.
    response = response_to(request, status, error_comment="fuzz \udcff\\ \x00 ü" * 9)
    try:
        read = decode(encode(response))
    except (LocalProtocolError, RemoteProtocolError) as error:
        raise Finding(f"a {request.name} that cannot be answered: {error}") from error
    check_equal(read.message_id_being_responded_to, request.message_id, "message ID answered")
    check_equal(read.status, status, "status")


def once(data: bytes) -> None:
    """What is measured."""
    try:
        decode(data[HEAD:])
    except RemoteProtocolError:
        return


def run(data: bytes) -> object:
    """All checks."""
    head = Head(data, HEAD)
    status, seed, body = head.choose(_STATUSES), head.byte(), head.body
    _elements(body)
    whole = _assemble([memoryview(body)])
    check_equal(repr(_assemble(list(pieces(body, seed)))), repr(whole), "assembled, cut differently")
    try:
        command = decode(body)
    except RemoteProtocolError as error:
        if len(body) <= 65536:
            check_equal(whole, str(error), "what the assembler says")
        return words(error)
    repr(command)
    check(command.is_request != command.is_response, "request or response?")
    if command.is_request and command.command_field != CommandField.C_CANCEL_RQ:
        _respond(command, status)
    try:
        encoded = encode(command)
    except LocalProtocolError:  # reading is more tolerant than writing
        return command.name, "not encoded"
    check_equal(_plain(decode(encoded)), _plain(command), "there and back")
    return command.name, tuple(sorted(command.__dict__))


def _plain(command: Command) -> Command:
    """Without what writing cannot keep: characters and length of the comment."""
    fields = dict(command.__dict__)
    fields.pop("error_comment", None)
    return Command(fields.pop("command_field"), **fields)
