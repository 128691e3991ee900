"""Makes private copies of files at URLs such as s3://bucket/name. Lists the package that opens each kind of URL."""
