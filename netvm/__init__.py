"""netvm: a network-writeback memory-pressure emulator with reserve pools.

It emulates a Linux host whose dirty pages can only be cleaned over the network and says whether it survives, and why.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
