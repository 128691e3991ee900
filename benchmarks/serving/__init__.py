"""The parts of the HTTP serving benchmarks.

They are the load generator, the service under test, the arrival traces, and the saturation measurement.
"""
