"""The NFS server: the procedures on an export, on a machine of its own or as kernel threads of the emulated host."""
