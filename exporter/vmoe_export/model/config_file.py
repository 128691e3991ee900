"""Read an official model config from a file written by a user or a trainer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vmoe_export.errors import ConfigError
from vmoe_export.model.model_config import CONFIG_FIELDS
from vmoe_export.small_file import read_small

_PARTS = {
    "model": "num_classes patch_size hidden_size encoder classifier representation_size head_bias_init head_kernel_zero_init"
    f" image_size {' '.join(CONFIG_FIELDS)}",
    "encoder": "num_layers mlp_dim num_heads dropout_rate attention_dropout_rate attention_qk_norm moe position_emb",
    "position_emb": "h w temperature",
    "moe": "num_experts layers mlp_dim group_size dropout_rate router split_rngs ensemble_size",
    "router": "num_experts num_selected_experts noise_std gshard_loss_weight importance_loss_weight load_loss_weight"
    " num_slots capacity_factor compute_similarity_metrics normalize_weights dispatcher",
    "dispatcher": "bfloat16 batch_priority capacity capacity_factor capacity_ceil_or_round capacity_multiple_of",
}
FIELDS = {part: {"name", "deterministic", "dtype", "partition_spec", *names.split()} for part, names in _PARTS.items()}
"""Fields of each part of a config: all official ones, training fields included, and the few that we add."""

_OF_CONFIG_DICT = (".yaml", ".yml", ".txt")


def load_config(path: Path) -> dict[str, Any]:
    """Read an official model config, which may also be nested under the key `model`.

    Args:
        path: the file. If its name ends in `.yaml`, `.yml` or `.txt`, it holds a printed ConfigDict. Any other file is read
            as JSON.

    Raises:
        ConfigError: the file does not exist, or does not hold a mapping.
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


def unknown_fields(config: Mapping[str, Any], part: str = "model") -> Iterator[str]:
    """Yield the fields of a config that are not in `FIELDS`, with nested names joined by '.'."""
    for name, value in config.items():
        if name not in FIELDS[part]:
            yield str(name)[:40]
        elif name in FIELDS and isinstance(value, Mapping):
            yield from (f"{name}.{each}" for each in unknown_fields(value, name))


def _read_config_dict(text: bytes) -> Any:
    """Parse YAML that holds plain values and tuples, such as a printed official config."""
    import yaml

    loader: Any = type("Loader", (yaml.SafeLoader,), {})
    loader.add_constructor("tag:yaml.org,2002:python/tuple", lambda own, node: own.construct_sequence(node, deep=True))
    try:
        return yaml.load(text, loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
