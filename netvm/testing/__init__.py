"""For tests of one's own: explore a scenario or a policy with pytest and Hypothesis.

``from netvm.testing.explore import explore`` makes a test of a scenario, ``netvm.testing.strategies`` draws scenarios,
faults and schedule tapes together, ``netvm.testing.machine`` is a state machine over one host's memory and sockets, and
``netvm.testing.plugin`` is the pytest plugin. Only the middle two need Hypothesis.
"""
