"""The client's end: calls out, replies in, found by their xid.

A call that was made stays encoded until it is answered, with its payload by reference, because it may have to be sent
again: after a time-out, or because the connection ended. The core never decides that; it answers what is to be sent
(:meth:`NfsClientConnection.call`, :meth:`NfsClientConnection.send`) and remembers what is out.

A new connection is a new stream: what was received of a record is dropped, and every call that had been sent is ready
to be sent again (:meth:`NfsClientConnection.reconnect`). Over UDP there is neither: a call and a reply are a datagram
each, without a record mark (RFC 5531, section 10).
"""

from typing import Any, NamedTuple

from storage_backends.nfs.connection.procedures import Procedure
from storage_backends.nfs.rpc import (
    AcceptStat,
    AuthFlavor,
    AuthSys,
    CallHeader,
    RecordReader,
    RejectStat,
    pull_reply,
    push_auth_sys,
    push_call,
    push_record,
)
from storage_backends.nfs.state import CallState, Message, State
from storage_backends.nfs.xdr import XdrReader, XdrWriter
from storage_backends.wire import Chunk, LocalProtocolError, RemoteProtocolError, size_of

__all__ = ["NfsClientConnection", "Reply"]


class Reply(NamedTuple):
    """A call was answered."""

    xid: int
    procedure: Procedure
    result: Any
    """The procedure's result, or None if the call was not executed."""
    refusal: str
    """Why it was not executed; empty if it was."""


class _Call:
    __slots__ = ("chunks", "procedure", "size_bytes", "state")

    def __init__(self, procedure: Procedure, chunks: list[Chunk]) -> None:
        self.procedure = procedure
        self.chunks = chunks
        self.size_bytes = sum(map(size_of, chunks))
        self.state = CallState()


class NfsClientConnection:
    """Everything one client has asked one server."""

    __slots__ = ("_calls", "_credential", "_reader", "is_stream", "nr_stray_replies")

    def __init__(self, credential: AuthSys) -> None:
        self.is_stream = True
        """Calls are records of a stream; else datagrams."""
        self._credential = push_auth_sys(credential)
        self._reader = RecordReader()
        # invariant: the calls that are not answered, by xid, oldest first
        self._calls: dict[int, _Call] = {}
        self.nr_stray_replies = 0
        """Replies to no call of ours: answers to calls that were sent twice."""

    @property
    def bytes_wanted(self) -> int:
        """How many more bytes complete the next mark or fragment."""
        return self._reader.bytes_missing

    @property
    def xids(self) -> tuple[int, ...]:
        """Calls that are not answered, oldest first."""
        return tuple(self._calls)

    def state_of(self, xid: int) -> State:
        """Return where a call stands. Raises LocalProtocolError for an xid that is not out."""
        return self._call(xid).state.current

    def size_of(self, xid: int) -> int:
        """Return the bytes of a call's record. Raises LocalProtocolError for an xid that is not out."""
        return self._call(xid).size_bytes

    def call(self, xid: int, procedure: Procedure, args: object) -> int:
        """Encode a call and return the bytes of its record. Raises LocalProtocolError for an xid that is out."""
        if xid in self._calls:
            raise LocalProtocolError(f"xid {xid:#x} is out")
        writer = XdrWriter()
        no_args = args is None
        push_call(
            writer,
            CallHeader(
                xid=xid,
                program=procedure.program,
                version=procedure.version,
                procedure=procedure.number,
                flavor=AuthFlavor.AUTH_NONE if no_args else AuthFlavor.AUTH_SYS,
                credential=b"" if no_args else self._credential,
            ),
        )
        procedure.push_args(writer, args)
        chunks = writer.chunks()
        call = self._calls[xid] = _Call(procedure, push_record(chunks) if self.is_stream else chunks)
        return call.size_bytes

    def send(self, xid: int) -> list[Chunk]:
        """Return the chunks of a call, now sent (again). Raises LocalProtocolError for an xid that is not out."""
        call = self._call(xid)
        call.state.sent(Message.CALL)
        return call.chunks

    def forget(self, xid: int) -> None:
        """Give a call up; its reply, if it comes, is a stray one. Raises LocalProtocolError if it is not out."""
        self._call(xid)
        del self._calls[xid]

    def receive(self, chunk: Chunk) -> list[Reply]:
        """Take a chunk from the server. Raises RemoteProtocolError if it breaks the protocol: the stream is lost."""
        self._reader.push(chunk)
        replies = []
        while (record := self._reader.pull_record()) is not None:
            reply = self._on_reply(record)
            if reply is not None:
                replies.append(reply)
        return replies

    def receive_datagram(self, chunks: list[Chunk]) -> Reply | None:
        """Take a datagram from the server; None for a stray one. Raises RemoteProtocolError if it is no reply."""
        return self._on_reply(XdrReader(chunks))

    def reconnect(self) -> None:
        """Begin a new stream: every call that was sent is to be sent again."""
        self._reader = RecordReader()
        for call in self._calls.values():
            call.state.received(Message.EOF)

    def _call(self, xid: int) -> _Call:
        try:
            return self._calls[xid]
        except KeyError:
            raise LocalProtocolError(f"xid {xid:#x} is not out") from None

    def _on_reply(self, record: XdrReader) -> Reply | None:
        header = pull_reply(record)
        call = self._calls.get(header.xid)
        if call is None:
            self.nr_stray_replies += 1
            return None
        call.state.received(Message.REPLY)
        del self._calls[header.xid]
        if header.accept_stat is None:
            assert header.reject_stat is not None
            return Reply(header.xid, call.procedure, None, RejectStat(header.reject_stat).name)
        if header.accept_stat != AcceptStat.SUCCESS:
            return Reply(header.xid, call.procedure, None, AcceptStat(header.accept_stat).name)
        result = call.procedure.pull_res(record)
        record.done()
        return Reply(header.xid, call.procedure, result, "")

    def receive_eof(self) -> None:
        """Take the end of the stream. Raises RemoteProtocolError if it cuts a record in two."""
        if self._reader.is_inside:
            raise RemoteProtocolError(f"the server closed the connection {self.bytes_wanted} bytes short of a record")
