"""Whether a weight rule keeps what the axioms ask: searches for a counter-example, and what they found."""
