"""The parts of the HTTP serving benchmarks: the load generator, the service under test, arrival traces, and saturation."""
