"""Reads config.pbtxt files with the protobuf messages from Triton's client, in the client's environment.

    python triton_config_check.py CONFIG ...

The program prints a JSON list with one item per file. If a file has an unknown field, its item is {"error": message}.
"""

import json
import sys
from pathlib import Path
from typing import Any

from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2


def read(path: str) -> dict[str, Any]:
    try:
        config = text_format.Parse(Path(path).read_text(), model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        return {"error": str(error)}
    return json_format.MessageToDict(config, preserving_proto_field_name=True)


if __name__ == "__main__":
    print(json.dumps([read(path) for path in sys.argv[1:]]))
