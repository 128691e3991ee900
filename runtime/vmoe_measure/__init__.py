"""Tools that measure the cost and the accuracy of a bundle.

They count FLOPs, time calls, compare runs, and provide the images for the measurements.
"""
