"""Run a bundle with only ONNX Runtime and numpy.

    python onnxruntime_plain.py mnist.vmoe test_data.npz --profile c0.3-k1
    python onnxruntime_plain.py mnist.vmoe test_data.npz --op-library $(python -m vmoe_runtime --op-library)

The .npz file contains the array `images`, with the model's image size. The images are uint8, or float32 in [-1, 1].
Their shape is [N,H,W,C], or [N,H,W] if there is one channel. If the file also contains `labels`, int[N], the program
prints the accuracy.
"""

import argparse
import json
import os
import sys
import zipfile
from pathlib import Path

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime


def main() -> None:
    parser = argparse.ArgumentParser(description="Run a bundle with only ONNX Runtime and numpy.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--profile", help="such as c0.3-k1; default: the first one")
    parser.add_argument("--op-library", help="path of vmoe's op library; without it, vmoe's ops run as standard ops")
    given = parser.parse_args()
    manifest = json.loads((given.bundle / "manifest.json").read_bytes())
    if (output := manifest["output"]["name"]) != "logits":
        sys.exit(f"error: {given.bundle} returns {output}, which have no classes")
    no_images = f"error: {given.images} is not an .npz file of images; `vmoe run` reads pictures"
    data = np.load(given.images) if zipfile.is_zipfile(given.images) else sys.exit(no_images)

    images = data["images"]
    if images.ndim == 3:  # one channel
        images = images[..., None]
    if images.dtype == np.uint8 and manifest["input"]["dtype"] == "float32":
        images = images.astype(np.float32) / 255 * 2 - 1
    multiple = manifest["batch_multiple"]
    if len(images) % multiple:
        sys.exit(f"error: the bundle needs a multiple of {multiple} images, but there are {len(images)}")

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors arrive as exceptions
    if given.op_library:
        options.register_custom_ops_library(given.op_library)
    session = onnxruntime.InferenceSession(given.bundle / "model.onnx", options, ["CPUExecutionProvider"])

    # The routing settings are graph inputs, so one loaded model serves every profile. Each profile in the manifest
    # has one field per routing setting. `capacity` has one number per MoE layer: the slots per expert. A dense model
    # may have no profile.
    setting = {}
    profiles = {profile["name"]: profile for profile in manifest["profiles"]}
    if name := given.profile or next(iter(profiles), None):
        if name not in profiles:
            sys.exit(f"error: there is no profile '{name}'; the bundle has {', '.join(profiles) or 'none'}")
        names = [each.name for each in session.get_overridable_initializers() if each.name in profiles[name]]
        setting = {each: np.array(profiles[name][each], np.int64).reshape(-1) for each in names}

    routing = manifest["routing"]
    layers = routing["layers"] if routing and routing["kind"] != "soft" else []  # a Soft MoE drops no tokens
    outputs = [output, *(f"{layer}/kept" for layer in layers)]
    predictions, kept = [], []
    step = multiple * max(1, 32 // multiple)
    for start in range(0, len(images), step):
        logits, *kept_of_layers = session.run(outputs, {"image": images[start : start + step], **setting})
        predictions += logits.argmax(-1).tolist()
        kept += [layer.ravel() for layer in kept_of_layers]  # True for each (token, choice) pair that got a slot

    if "labels" in data:
        print(f"top-1 accuracy: {100 * np.mean(predictions == data['labels']):.2f} % of {len(images)} images")
    else:
        names = manifest["class_names"]
        print("predictions:", *(names[i] if names else i for i in predictions))
    if kept:
        print(f"kept pairs: {100 * np.mean(np.concatenate(kept)):.2f} %")


if __name__ == "__main__":
    try:
        main()
    except Exception as error:  # print any error as one line
        sys.exit(f"error: {' '.join(str(error).split())}")
