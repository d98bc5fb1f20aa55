"""The initiator's I/O: libiscsi with its TCP transport, and the daemon that opens its connections."""
