"""The messages of NFS version 3 and of its MOUNT protocol (RFC 1813)."""
