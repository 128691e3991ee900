"""Files at URLs such as s3://bucket/name: private copies of them, and the package that opens each kind of URL."""
