"""Batch jobs, which run a model on many pictures with Ray Data.

A job divides its input into parts, and writes the results of each part once.
"""
