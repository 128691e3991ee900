"""Checkpoint readers, one module per format, and the interface that all readers share."""

from vmoe_export.checkpoint.base import Array, Checkpoint, TensorInfo
from vmoe_export.checkpoint.bundle import BundleCheckpoint

__all__ = ["Array", "BundleCheckpoint", "Checkpoint", "TensorInfo"]

TORCH_SUFFIXES = {".pt", ".pth", ".bin", ".tar"}  # timm's training writes .pth.tar
ONE_FILE_SUFFIXES = {".safetensors", *TORCH_SUFFIXES}
SHARDS = (".safetensors.index.json", ".bin.index.json")
_MODEL_FILES = (
    *("model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
MODEL_FILES = (*_MODEL_FILES, "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""File names of whole models in a Hugging Face folder. If several exist, the first in this order is read."""
PROCESSOR, PICTURES = "processor_config.json", "preprocessor_config.json"
MODEL_SETTINGS = ("config.json", "open_clip_config.json", PROCESSOR, PICTURES)
