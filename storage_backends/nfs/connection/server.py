"""The server's end of one connection: calls in, replies out in whatever order they are ready.

What cannot be executed is answered at once, as RFC 5531 section 9 says: an RPC version that is not 2, a program or
version that is not here, a procedure it has not, arguments that do not decode. A broken record mark or a message that
is not a call leaves nothing to answer to: the connection is given up (:class:`RemoteProtocolError`).

A call whose xid is being served already was sent twice by an impatient client: it is dropped, its reply is on the way.
Over UDP, where a call or its reply may be lost and both come again late, the replies to procedures that change
something are kept as well (fs/nfsd/nfscache.c): a WRITE that was executed once is not executed again over newer data.
Left out: the cache of replies already given on a connection, where nothing comes late.
"""

from collections import OrderedDict
from typing import Any, Final, NamedTuple

from storage_backends.nfs.connection.procedures import CREATE, PROCEDURES, SETATTR, VERSIONS, WRITE, Procedure
from storage_backends.nfs.rpc import (
    RPC_VERSION,
    AcceptStat,
    AuthFlavor,
    CallHeader,
    RecordReader,
    RejectStat,
    ReplyHeader,
    pull_auth_sys,
    pull_call,
    push_record,
    push_reply,
)
from storage_backends.nfs.state import CallState, Message
from storage_backends.nfs.xdr import XdrReader, XdrWriter
from storage_backends.wire import Chunk, LocalProtocolError, RemoteProtocolError

__all__ = ["CACHESIZE", "NfsServerConnection", "Request"]

_AUTH_BADCRED = 1
CACHESIZE: Final = 1024
"""Replies that are kept, the oldest going first."""
_REPLBUFF: Final = (CREATE, SETATTR, WRITE)
"""Procedures whose replies are kept (RC_REPLBUFF)."""


class Request(NamedTuple):
    """A call to serve; it is answered by its xid."""

    xid: int
    procedure: Procedure
    args: Any
    uid: int
    """Who is asking: 0 without a credential."""


class NfsServerConnection:
    """The server's end of one connection."""

    __slots__ = ("_calls", "_procedures", "_reader", "_replies", "_to_send", "is_stream", "nr_repeated_calls")

    def __init__(self) -> None:
        self._reader = RecordReader()
        # invariant: the calls being served, by xid, and the procedure of each
        self._calls: dict[int, CallState] = {}
        self._procedures: dict[int, Procedure] = {}
        self._to_send: list[Chunk] = []
        self.nr_repeated_calls = 0
        """Calls that came again while they were being served, or after they were answered."""
        self.is_stream = True
        """Calls are records of a stream; else datagrams."""
        # invariant: at most CACHESIZE replies, the one given last at the end
        self._replies: OrderedDict[int, list[Chunk]] = OrderedDict()

    @property
    def bytes_wanted(self) -> int:
        """How many more bytes complete the next mark or fragment."""
        return self._reader.bytes_missing

    def chunks_to_send(self) -> list[Chunk]:
        """Take the replies to calls that could not be executed."""
        to_send, self._to_send = self._to_send, []
        return to_send

    def receive(self, chunk: Chunk) -> list[Request]:
        """Take a chunk from the client. Raises RemoteProtocolError if it breaks the protocol: the stream is lost."""
        self._reader.push(chunk)
        requests = []
        while (record := self._reader.pull_record()) is not None:
            request = self._on_call(record)
            if request is not None:
                requests.append(request)
        return requests

    def receive_datagram(self, chunks: list[Chunk]) -> Request | None:
        """Take a datagram from the client; None if there is nothing to execute.

        Raises RemoteProtocolError if it is no call.
        """
        return self._on_call(XdrReader(chunks))

    def receive_eof(self) -> None:
        """Take the end of the stream. Raises RemoteProtocolError if it cuts a record in two."""
        if self._reader.is_inside:
            raise RemoteProtocolError(f"the client closed the connection {self.bytes_wanted} bytes short of a record")

    def reply(self, xid: int, result: object) -> list[Chunk]:
        """Return the chunks of a reply. Raises LocalProtocolError for a call that is not being served."""
        call = self._calls.pop(xid, None)
        if call is None:
            raise LocalProtocolError(f"xid {xid:#x} is not being served")
        call.sent(Message.REPLY)
        writer = XdrWriter()
        push_reply(writer, ReplyHeader(xid=xid))
        procedure = self._procedures.pop(xid)
        procedure.push_res(writer, result)
        chunks = writer.chunks()
        if self.is_stream:
            return push_record(chunks)
        if procedure in _REPLBUFF:
            self._replies[xid] = chunks
            if len(self._replies) > CACHESIZE:
                self._replies.popitem(last=False)
        return chunks

    def _on_call(self, record: XdrReader) -> Request | None:
        header = pull_call(record)
        if header.xid in self._calls:
            self._calls[header.xid].received(Message.CALL)
            self.nr_repeated_calls += 1
            return None
        if header.xid in self._replies:
            self.nr_repeated_calls += 1
            self._to_send += self._replies[header.xid]
            return None
        procedure = self._procedure(header)
        if procedure is None:
            return None
        uid = self._uid(header)
        if uid is None:
            return None
        try:
            args = procedure.pull_args(record)
            record.done()
        except RemoteProtocolError:
            self._refuse(ReplyHeader(xid=header.xid, accept_stat=AcceptStat.GARBAGE_ARGS))
            return None
        call = self._calls[header.xid] = CallState()
        call.received(Message.CALL)
        self._procedures[header.xid] = procedure
        return Request(header.xid, procedure, args, uid)

    def _procedure(self, header: CallHeader) -> Procedure | None:
        """Return what is called, or refuse and return None."""
        xid, program = header.xid, header.program
        if header.rpc_version != RPC_VERSION:
            reject = RejectStat.RPC_MISMATCH
            self._refuse(ReplyHeader(xid=xid, accept_stat=None, reject_stat=reject, low=RPC_VERSION, high=RPC_VERSION))
            return None
        if program not in VERSIONS:
            self._refuse(ReplyHeader(xid=xid, accept_stat=AcceptStat.PROG_UNAVAIL))
            return None
        low, high = VERSIONS[program]
        if not low <= header.version <= high:
            self._refuse(ReplyHeader(xid=xid, accept_stat=AcceptStat.PROG_MISMATCH, low=low, high=high))
            return None
        procedure = PROCEDURES.get((program, header.version, header.procedure))
        if procedure is None:
            self._refuse(ReplyHeader(xid=xid, accept_stat=AcceptStat.PROC_UNAVAIL))
        return procedure

    def _uid(self, header: CallHeader) -> int | None:
        """Return who asks, or refuse and return None."""
        if header.flavor == AuthFlavor.AUTH_NONE:
            return 0
        if header.flavor == AuthFlavor.AUTH_SYS:
            try:
                return pull_auth_sys(header.credential).uid
            except RemoteProtocolError:
                pass
        reject = RejectStat.AUTH_ERROR
        self._refuse(ReplyHeader(xid=header.xid, accept_stat=None, reject_stat=reject, low=_AUTH_BADCRED))
        return None

    def _refuse(self, header: ReplyHeader) -> None:
        writer = XdrWriter()
        push_reply(writer, header)
        self._to_send += push_record(writer.chunks()) if self.is_stream else writer.chunks()
