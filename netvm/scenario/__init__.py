"""An experiment as data: schema, loader, workloads, faults, expectation and verdict."""
