"""Many runs looking for one bad one: strategies, properties, proofs, reproducers."""
