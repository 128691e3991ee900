"""What tensors, config and flags tell of a model, and from which of them each value comes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vmoe_export.errors import ConfigError
from vmoe_export.model.model_config import Origin

Shapes = Mapping[str, tuple[int, ...]]


class ModelFacts:
    """The facts about one model.

    Attributes:
        shapes: shape of each tensor, by official parameter name.
        config: the official model config, or an empty one.
        encoder: its part on the encoder.
        flags: values by field, which beat the config's.
        origins: where the values that were read so far come from.
    """

    def __init__(self, shapes: Shapes, config: Mapping[str, Any], flags: Mapping[str, Any]) -> None:
        self.shapes = shapes
        self.config = config
        self.encoder = mapping(config, "encoder")
        self.flags = flags
        self.origins: dict[str, Origin] = {}

    def note(self, origin: Origin, *fields: str) -> None:
        """Says where the values of fields come from."""
        self.origins.update(dict.fromkeys(fields, origin))

    def shape(self, name: str, ndim: int) -> tuple[int, ...]:
        """The shape of a tensor that must be there.

        Raises:
            ConfigError: it isn't, or it hasn't `ndim` sizes above 0.
        """
        shape = self.shapes.get(name)
        if shape is None:
            raise ConfigError(f"the checkpoint has no tensor {name}")
        if len(shape) != ndim or 0 in shape:
            raise ConfigError(f"tensor {name} has shape {shape}, which is not {ndim} sizes above 0")
        return shape

    def setting(self, field: str, given: Mapping[str, Any], key: str, default: Any) -> Any:
        """The value of a field that no tensor tells: the flag's, or what `given`, a part of the config, has for `key`."""
        if field in self.flags:
            self.note("flag", field)
            return self.flags[field]
        if key in given:
            self.note("config", field)
            # The official configs write None for "off".
            return 0 if given[key] is None else given[key]
        self.note("default", field)
        return default


def mapping(parent: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A part of a config; empty where it has none. Raises ConfigError for what is no mapping."""
    value = parent.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"the config's {key!r} must be an object, not {value!r:.60}")
    return value


def number(parent: Mapping[str, Any], key: str, default: float) -> float:
    """A number of a config. Raises ConfigError for what is no positive finite one."""
    value = parent.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
        raise ConfigError(f"the config's {key!r} must be a positive number, not {value!r:.60}")
    return float(value)
