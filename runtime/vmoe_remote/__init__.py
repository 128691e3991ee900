"""Private copies of files at URLs such as s3://bucket/name, and the package that opens each kind of URL."""
