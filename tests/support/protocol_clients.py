"""Sends requests with Triton's and KServe's clients for the Open Inference Protocol.

    python protocol_clients.py PORT MODEL IMAGES.npy

The program must run in an environment that has these clients. It prints a JSON object with one field per request. The field
contains either the response or the text of the exception.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import tritonclient.http as triton
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

VERSION = "1"


def triton_questions(port: int, model: str, images: np.ndarray) -> dict[str, Callable[[], Any]]:
    client = triton.InferenceServerClient(f"127.0.0.1:{port}", network_timeout=300, connection_timeout=300)

    def infer(binary: bool, count: int = 0, **options: Any) -> Any:
        tensor = triton.InferInput("image", list(images.shape), "FP32")
        tensor.set_data_from_numpy(images, binary_data=binary)
        outputs = [triton.InferRequestedOutput("logits", binary_data=binary, class_count=count)]
        options = {"outputs": outputs, "model_version": VERSION} | options
        found = client.infer(model, [tensor], **options).as_numpy("logits")
        return [[text.decode() if isinstance(text, bytes) else text for text in row] for row in found.tolist()]

    return {
        "live": client.is_server_live,
        "ready": client.is_server_ready,
        "model ready": lambda: client.is_model_ready(model, VERSION),
        "server": client.get_server_metadata,
        "model": lambda: client.get_model_metadata(model, VERSION),
        "index": client.get_model_repository_index,
        "binary": lambda: infer(True),
        "json": lambda: infer(False),
        "gzip": lambda: infer(True, request_compression_algorithm="gzip"),
        "deflate": lambda: infer(False, request_compression_algorithm="deflate", response_compression_algorithm="gzip"),
        "default outputs": lambda: infer(True, outputs=None, model_version=""),
        "classes": lambda: infer(True, 3),
        "classes in json": lambda: infer(False, 3),
        "priority": lambda: infer(True, priority=1),
    }


def kserve_questions(port: int, model: str, images: np.ndarray) -> dict[str, Callable[[], Any]]:
    url = f"http://127.0.0.1:{port}"

    def ask(question: Callable[[InferenceRESTClient], Awaitable[Any]]) -> Any:
        async def asked() -> Any:
            client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=300))
            try:
                return await question(client)
            finally:
                await client.close()

        return asyncio.run(asked())

    def infer(binary: bool) -> Any:
        tensor = InferInput("image", list(images.shape), "FP32")
        tensor.set_data_from_numpy(images, binary_data=binary)
        outputs = [RequestedOutput("logits", {"binary_data": binary})]
        request = InferRequest(model, [tensor], request_id="a", request_outputs=outputs)
        reply = ask(lambda client: client.infer(url, request, model_name=model))
        return reply.outputs[0].as_numpy().reshape(len(images), -1).tolist()

    return {
        "live": lambda: ask(lambda client: client.is_server_live(url)),
        "ready": lambda: ask(lambda client: client.is_server_ready(url)),
        "model ready": lambda: ask(lambda client: client.is_model_ready(url, model)),
        "binary": lambda: infer(True),
        "json": lambda: infer(False),
    }


def main() -> None:
    port, model, images = int(sys.argv[1]), sys.argv[2], np.load(sys.argv[3])
    answers = {}
    for client, questions in (("triton", triton_questions), ("kserve", kserve_questions)):
        for name, question in questions(port, model, images).items():
            try:
                answers[f"{client} {name}"] = question()
            except Exception as error:  # a client may raise any exception; it is recorded in place of the response
                answers[f"{client} {name}"] = f"{type(error).__name__}: {error}"
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
