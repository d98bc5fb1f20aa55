"""A local disk: the control in which nothing goes over a network."""
