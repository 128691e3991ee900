"""The speed benchmark's parts: models, peers, contenders, floors and reports, one subject a file."""
