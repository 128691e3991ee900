"""Reads a config.pbtxt with the client's own protobuf, in the environment of the client; prints what it says as JSON.

    python triton_config_check.py CONFIG

A field that Triton doesn't know is one line on standard error and exit code 1.
"""

import sys
from pathlib import Path

from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2


def main() -> None:
    try:
        config = text_format.Parse(Path(sys.argv[1]).read_text(), model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        sys.exit(str(error))
    print(json_format.MessageToJson(config, preserving_proto_field_name=True))


if __name__ == "__main__":
    main()
