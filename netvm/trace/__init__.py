"""What happened: counters under their kernel names, latency histograms, records."""
