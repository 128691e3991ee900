"""Measures the cost and accuracy of a bundle: FLOPs, comparison of answers, labelled and synthetic images, timing."""
