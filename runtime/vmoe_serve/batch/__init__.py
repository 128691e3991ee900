"""A job over many pictures on Ray Data: how its input is divided into shards, and each is answered and written once."""
