"""Both ends of an iSCSI connection without I/O: chunks and nanoseconds go in, facts and PDUs come out.

Either end takes what its socket delivered with ``receive``, which returns facts, and hands out what is to be sent with
``next_pdu``, one PDU a call in the order of the wire, headers as bytes and blocks by reference. Asking for PDUs one by
one is what makes the order right: what a later fact changes (a window that opened, a task that was aborted) has not
been sent yet.
"""
