"""A Ray cluster on this machine that several commands can share, and an S3 server. Both are context managers."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

CLUSTER = """
import sys, ray
from vmoe_serve.ray_session import connected_ray
with connected_ray(4, 1 << 28):
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
"""


@contextmanager
def ray_cluster() -> Iterator[dict[str, str]]:
    """Run a Ray cluster until the block ends.

    Yield the environment variables with which a command joins the cluster.
    """
    environment = {**os.environ, "RAY_ADDRESS": "", "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-c", CLUSTER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdin and process.stdout
        yield {"RAY_ADDRESS": process.stdout.readline().strip()}
        process.stdin.close()


@contextmanager
def s3_server(bucket: str) -> Iterator[None]:
    """Run an S3 server with an empty bucket until the block ends.

    Inside the block, this process's environment variables make S3 clients use the server.
    """
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    boto3.client("s3").create_bucket(Bucket=bucket)
    try:
        yield
    finally:
        server.stop()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
