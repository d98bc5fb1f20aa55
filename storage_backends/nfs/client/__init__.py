"""The kernel's NFS client under memory pressure: RPC tasks on workqueues, the transport, swap files, and mounting."""
