"""Storage protocols over emulated sockets; they stand on netvm and plug into it by entry point."""
