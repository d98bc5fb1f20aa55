"""Requests to a disk: bios, the request queue and the swap area."""
