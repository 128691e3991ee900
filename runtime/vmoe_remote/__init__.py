"""Files at addresses such as s3://bucket/name: private copies of them, and which package opens which address."""
