"""What the benchmarks share: inputs, competitors, checks, clocks, memory, limits. Nothing of the package imports it."""
