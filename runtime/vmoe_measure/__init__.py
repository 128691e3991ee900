"""Tools that measure the cost and accuracy of a bundle: FLOPs, timing, comparison of runs, and the images to measure on."""
