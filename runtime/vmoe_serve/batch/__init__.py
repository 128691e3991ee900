"""Batch jobs, which answer many pictures with Ray Data. A job divides its input into parts, and writes each part once."""
