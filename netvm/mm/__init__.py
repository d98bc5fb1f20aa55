"""Physical memory and who gets it: zones, buddy, reclaim, slab, mempools, reserves."""
