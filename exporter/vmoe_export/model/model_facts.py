"""Facts about a model, taken from its tensors, config and flags. The source of each value is recorded."""

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
        config: the official model config; empty if there is none.
        encoder: the config's section for the encoder.
        flags: the values that flags set, by field; they override the config.
        origins: the source of each value read so far, by field.
    """

    def __init__(self, shapes: Shapes, config: Mapping[str, Any], flags: Mapping[str, Any]) -> None:
        self.shapes = shapes
        self.config = config
        self.encoder = mapping(config, "encoder")
        self.flags = flags
        self.origins: dict[str, Origin] = {}

    def note(self, origin: Origin, *fields: str) -> None:
        """Record `origin` as the source of the values of `fields`."""
        self.origins.update(dict.fromkeys(fields, origin))

    def shape(self, name: str, ndim: int) -> tuple[int, ...]:
        """Return the shape of a required tensor.

        Raises:
            ConfigError: the tensor is missing, does not have `ndim` dimensions, or has a dimension of size 0.
        """
        shape = self.shapes.get(name)
        if shape is None:
            raise ConfigError(f"the checkpoint has no tensor {name}")
        if len(shape) != ndim or 0 in shape:
            raise ConfigError(f"tensor {name} has shape {shape}, which is not {ndim} sizes above 0")
        return shape

    def setting(self, field: str, given: Mapping[str, Any], key: str, default: Any) -> Any:
        """Return a value that no tensor determines.

        The value is the flag `field`, or else the value of `key` in the config section `given`, or else `default`.
        """
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
    """Return a section of a config, or an empty mapping if the section is missing.

    Raise ConfigError if the section is not a mapping.
    """
    value = parent.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"the config's {key!r} must be an object, not {value!r:.60}")
    return value


def number(parent: Mapping[str, Any], key: str, default: float) -> float:
    """Return a number from a config. If the number is not positive and finite, raise ConfigError."""
    value = parent.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
        raise ConfigError(f"the config's {key!r} must be a positive number, not {value!r:.60}")
    return float(value)
