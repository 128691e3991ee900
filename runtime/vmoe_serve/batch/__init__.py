"""A job over many pictures on Ray Data, which divides its input into parts and writes each of them once."""
