"""Sends requests to a Triton server. This program runs in the environment of Triton's client.

    python triton_client.py http|grpc HOST:PORT FOLDER AT_ONCE

FOLDER/requests.json is a list of {"model": ..., "images": array name in FOLDER/images.npz, "parameters": {...}}. The client
sends AT_ONCE requests, waits for all their responses, and then sends the next AT_ONCE requests. It writes
FOLDER/answers.json, a list with one item per request. Each item is {"error": ...} or {output name: value}. A value is the
name of an array in FOLDER/outputs.npz, or a list of strings.
"""

import json
import queue
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.utils import InferenceServerException, np_to_triton_dtype


def main() -> None:
    protocol, address, folder, at_once = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    requests = json.loads((folder / "requests.json").read_text())
    with np.load(folder / "images.npz") as file:
        images = dict(file)
    answers, arrays = [], {}
    for number, result in enumerate(_results(protocol, address, requests, images, at_once)):
        if isinstance(result, InferenceServerException):
            answers.append({"error": result.message()})
            continue
        outputs = {}
        for name in ("logits", "features", "members", "setting"):
            array = result.as_numpy(name)
            if name == "setting" and array is not None:
                outputs[name] = [[text.decode() for text in row] for row in array]
            elif array is not None:
                outputs[name] = f"{number}/{name}"
                arrays[f"{number}/{name}"] = array
        answers.append(outputs)
    np.savez(folder / "outputs.npz", **arrays)
    (folder / "answers.json").write_text(json.dumps(answers))


def _results(
    protocol: str, address: str, requests: list[dict[str, Any]], images: dict[str, np.ndarray], at_once: int
) -> Iterator[Any]:
    """Yield the result or the exception for each request, in the order of the requests."""
    module = import_module(f"tritonclient.{protocol}")
    options = {"concurrency": at_once} if protocol == "http" else {}
    with module.InferenceServerClient(address, **options) as client:
        for first in range(0, len(requests), at_once):
            part = requests[first : first + at_once]
            for wait in [_send(protocol, module, client, request, images[request["images"]]) for request in part]:
                try:
                    result = wait()
                except InferenceServerException as error:
                    result = error
                yield result


def _send(protocol: str, module: Any, client: Any, request: dict[str, Any], images: np.ndarray) -> Any:
    """Send a request, and return a function that waits for the result.

    If the request fails over gRPC, the function returns the error. If it fails over HTTP, the function raises the error.
    """
    tensor = module.InferInput("image", images.shape, np_to_triton_dtype(images.dtype))
    tensor.set_data_from_numpy(images)
    arguments = {"inputs": [tensor], "parameters": request["parameters"]}
    if protocol == "http":
        return client.async_infer(request["model"], **arguments).get_result
    results: queue.Queue[Any] = queue.Queue()
    client.async_infer(request["model"], callback=lambda result, error: results.put(error or result), **arguments)
    return results.get


if __name__ == "__main__":
    main()
