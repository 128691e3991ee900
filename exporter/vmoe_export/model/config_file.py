"""Reads an official model config that a user or a trainer has left in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vmoe_export.errors import ConfigError
from vmoe_export.small_file import read_small

_OF_CONFIG_DICT = (".yaml", ".yml", ".txt")


def load_config(path: Path) -> dict[str, Any]:
    """Reads an official model config; the mapping may stand under a key `model`.

    Args:
        path: JSON, or, in a file that ends in `.yaml`, `.yml` or `.txt`, what a ConfigDict prints.

    Raises:
        ConfigError: there is no such file, or it holds no such mapping.
    """
    try:
        text = read_small(path)
        config = _read_config_dict(text) if path.suffix in _OF_CONFIG_DICT else json.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except ModuleNotFoundError:
        raise ConfigError(f"{path} is read by PyYAML, which is not installed; pip install pyyaml") from None
    except (ValueError, RecursionError) as error:
        kind = "a readable ConfigDict" if path.suffix in _OF_CONFIG_DICT else "readable JSON"
        raise ConfigError(f"{path} is not {kind} ({error})") from None
    if isinstance(config, dict) and isinstance(config.get("model"), dict):
        config = config["model"]
    if not isinstance(config, dict):
        raise ConfigError(f"{path} must hold a mapping")
    return config


def _read_config_dict(text: bytes) -> Any:
    """YAML of plain values, and of tuples, which official configs have."""
    import yaml

    loader: Any = type("Loader", (yaml.SafeLoader,), {})
    loader.add_constructor("tag:yaml.org,2002:python/tuple", lambda own, node: own.construct_sequence(node, deep=True))
    try:
        return yaml.load(text, loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
