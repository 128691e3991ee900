"""The model for Triton's Python backend. It runs a bundle on the engine, at the setting that each request chooses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

from vmoe_runtime import BackendError, Engine, VmoeError
from vmoe_serve.triton.answers import Request, answer
from vmoe_serve.triton.model_config import SETTING_OUTPUT
from vmoe_serve.triton.repository import BUNDLE_FOLDER

# Triton and its clients add their own parameters to requests. Their names start with this prefix.
_TRITONS_OWN = "triton_"


class TritonPythonModel:
    """The interface that Triton's Python backend calls.

    A request contains `image`, an array [N,H,W,C] of float32 or uint8, and the parameters of
    `vmoe_serve.triton.answers.request_setting`. Its response contains the bundle's outputs, float32[N, ...]. If the model
    has settings, the response also contains `setting`, string[N,1], the name of the setting that was used. If a request is
    refused, the response is a one-line error message.
    """

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the bundle in the same folder as `model.py`.

        Raises:
            triton.TritonModelException: the bundle can't be loaded.
        """
        _check_numpy()
        parameters = {key: value["string_value"] for key, value in json.loads(args["model_config"])["parameters"].items()}
        bundle = Path(args["model_repository"], args["model_version"], BUNDLE_FOLDER)
        try:
            threads = int(parameters["threads"]) if "threads" in parameters else None
            self._engine = Engine.load(bundle, parameters.get("profile"), parameters.get("backend", "auto"), threads)
        except (VmoeError, ValueError) as error:
            raise triton.TritonModelException(str(error)) from None
        triton.Logger.log_info(f"{args['model_instance_name']}: {self._engine!r}")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests. Requests with the same setting are answered in one call."""
        answers = answer(self._engine, [_request(request) for request in requests])
        return [_failure(found) if isinstance(found, VmoeError) else self._response(*found) for found in answers]

    def finalize(self) -> None:
        """Closes the engine."""
        self._engine.close()

    def _response(self, answer: Mapping[str, np.ndarray[Any, np.dtype[Any]]], setting: str | None) -> Any:
        outputs = [triton.Tensor(name, np.ascontiguousarray(output)) for name, output in answer.items()]
        if setting is not None:
            names = np.full((len(next(iter(answer.values()))), 1), setting.encode(), object)
            outputs.append(triton.Tensor(SETTING_OUTPUT, names))
        return triton.InferenceResponse(outputs)


def _request(request: Any) -> Request:
    images = triton.get_input_tensor_by_name(request, "image").as_numpy()
    parameters = json.loads(request.parameters() or "{}")
    return images, {name: value for name, value in parameters.items() if not name.startswith(_TRITONS_OWN)}


def _failure(error: VmoeError) -> Any:
    code = triton.TritonError.INTERNAL if isinstance(error, BackendError) else triton.TritonError.INVALID_ARG
    return triton.InferenceResponse(error=triton.TritonError(str(error), code))


def _check_numpy() -> None:
    """Refuse numpy 2 with Triton before 25.02.

    Some of these Triton versions send empty outputs if numpy 2 is used. Triton does not report its version to models. So
    this function checks whether responses have parameters, a feature that Triton 25.02 introduced.
    """
    if int(np.__version__.partition(".")[0]) >= 2 and not hasattr(triton.InferenceResponse, "parameters"):
        raise triton.TritonModelException(
            f"this Triton is older than 25.02, whose Python backend may send empty outputs with numpy {np.__version__}; "
            "run pip install 'numpy<2' for the Python that it uses"
        )
