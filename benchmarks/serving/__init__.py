"""The parts of the HTTP serving benchmarks: load generator, service under test, arrival traces, and saturation."""
