"""The tensors and config.json of a model from another library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vmoe_export.checkpoint.base import TensorInfo
from vmoe_export.errors import CheckpointError, ConfigError, OptionError
from vmoe_export.model.parameters import Shape
from vmoe_runtime.errors import shown

_ASKED = {
    "heads": ("the number of attention heads", "--heads N"),
    "activation": ("the activation of the MLPs", "--activation gelu, gelu_tanh, quick_gelu or silu"),
    "pooling": ("whether the head reads the class token or the mean of the patches", "--pooling token or --pooling avg"),
}
"""For each option: the fact that it sets, which no tensor determines, and how to pass it."""
_FILLERS = {"heads": 1, "activation": "gelu", "pooling": None}
"""Substitutes for missing facts, so that reading can continue and one message lists all of them."""


@dataclass
class ForeignModel:
    """A model of a family, with its tensors and settings under the other library's names.

    Attributes:
        tensors: shape and dtype of each tensor. Names are without the family's prefix. If a name has no prefix in the file,
            it has "../" in front of it here.
        prefix: the family's prefix.
        config: the content of a config.json. If there is none, the mapping is empty.
        given: the user's options by name; an option that is not set is None.
        image_size: (height, width) from the user or the preprocessing config, or None if it is not known yet.
        used: names of the tensors read so far.
        asked: names of the options that apply to this model.
        missing: names of the options that the user must still set.
        taken: default values of those settings that neither the tensors nor the config nor the user provide.
        heads: the number of attention heads, set by `choose_heads`.
        width: D, set when the patch embedding is read.
        patch: (height, width) of a patch in pixels, set when the patch embedding is read.
        block: name prefix of the current encoder block while `blocks` runs, and "" otherwise. Methods take names relative to
            this prefix.
    """

    tensors: Mapping[str, TensorInfo]
    prefix: str
    config: Mapping[str, Any]
    given: Mapping[str, Any]
    image_size: tuple[int, int] | None
    used: set[str] = field(default_factory=set)
    asked: set[str] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)
    taken: dict[str, Any] = field(default_factory=dict)
    heads: int = 0
    width: int = 0
    patch: tuple[int, int] = (0, 0)
    block: str = ""

    def told(self, name: str) -> str:
        """Return a tensor's name in the file."""
        return name.removeprefix("../") if name.startswith("../") else self.prefix + self.block + name

    def has(self, name: str) -> bool:
        """Return whether a tensor exists."""
        return self.block + name in self.tensors

    def shape(self, name: str, ndim: int) -> Shape:
        """Return the shape of a required tensor.

        Raises:
            CheckpointError: the tensor is missing, holds no floats, is empty, or has a number of dimensions other than
                `ndim`.
        """
        info = self.tensors.get(self.block + name)
        if info is None:
            raise CheckpointError(f"the checkpoint has no tensor {self.told(name)}")
        if len(info.shape) != ndim or 0 in info.shape:
            raise CheckpointError(f"tensor {self.told(name)} has shape {info.shape}, but it needs {ndim} sizes above 0")
        if info.dtype.kind not in "fV":
            raise CheckpointError(f"tensor {self.told(name)} holds {info.dtype} values, which can't be weights")
        self.used.add(self.block + name)
        return info.shape

    def leave_out(self, start: str) -> None:
        """Mark all tensors whose names begin with `start` as used.

        Use this for tensors that do not affect the outputs.
        """
        self.used.update(name for name in self.tensors if name.startswith(start))

    def setting(self, key: str, default: Any, *choices: Any) -> Any:
        """Return the value of `key` in the config.json, or `default` if the config has no such value.

        Raises:
            ConfigError: the value has another type than `default`, or `choices` are given and the value is not one of them.
        """
        value = self.config.get(key)
        if value is None:
            return default
        wanted = (int, float) if isinstance(default, float) else type(default)
        if not isinstance(value, wanted) or isinstance(value, bool) != isinstance(default, bool):
            raise ConfigError(f"the config says {key} {shown(value)}, which is not a {type(default).__name__}")
        if choices and value not in choices:
            raise ConfigError(
                f"the config says {key} {shown(value)}, but only {', '.join(map(str, choices))} can be exported"
            )
        return value

    def claim(self, **found: Any) -> None:
        """Raise ConfigError if the config contradicts `found`.

        `found` maps config keys to the values that follow from the tensors.
        """
        for key, value in found.items():
            if self.config.get(key) not in (None, value):
                raise ConfigError(f"the config says {key} {shown(self.config[key])}, but the checkpoint has {value}")

    def refuse(self, why: str, *names: str) -> None:
        """Raise ConfigError if the model has one of the tensors `names`. The message begins with `why`."""
        if found := next((name for name in names if self.has(name)), None):
            raise ConfigError(f"{why} can't be exported (it has a tensor {found})")

    def choose(self, option: str, said: Any, source: str, usual: Any = None) -> Any:
        """Return a value that no tensor determines.

        The value comes from the config, or else from the user, or else it is `usual`. If `usual` is returned, a note will
        mention this. If there is no value at all, `option` is added to `missing`, and a placeholder is returned.

        Args:
            option: the name of the user's option, a key of `_ASKED`.
            said: the config's value, or None if the config has none.
            source: the start of a message about `said`, such as "the config says hidden_act".
            usual: the library's default for configs without the value, or the value that all released models share. It is
                None if neither is known.

        Raises:
            OptionError: the user's value contradicts the config's.
        """
        self.asked.add(option)
        given = self.given.get(option)
        if said is not None and given not in (None, said):
            raise OptionError(f"--{option} is {given}, but {source} {said}")
        if said is None and given is None:
            if usual is None:
                self.missing.append(option)
                return _FILLERS[option]
            self.taken[option] = usual
        return next(value for value in (said, given, usual) if value is not None)

    def check_complete(self, *, has_architectures: bool) -> None:
        """Check that no required option is missing.

        Raises:
            OptionError: an option is missing. The message lists all missing options, and how to set them.
        """
        if self.missing:
            facts, options = zip(*(_ASKED[option] for option in self.missing), strict=True)
            name = "--architecture NAME, or " if has_architectures and not self.config else ""
            raise OptionError(
                f"neither the tensors nor a config give {' or '.join(facts)}; pass {name}{' and '.join(options)}, or the "
                "model's config.json with --config"
            )

    def choose_heads(self, said: int | None, source: str, usual: int | None = None) -> None:
        """Set the number of heads to the result of `choose`.

        Raise OptionError if the number doesn't divide the hidden size.
        """
        self.heads = found = self.choose("heads", said, source, usual)
        if found < 1 or self.width % found:
            told = f"{source} {said}" if said is not None else f"--heads N sets the number of attention heads, and {found}"
            raise OptionError(f"{told} doesn't divide the hidden size {self.width}")

    def blocks(self, pattern: str, count_key: str = "") -> Iterator[str]:
        """Yield the official path of each encoder block.

        While the caller processes a block, the attribute `block` is the start of that block's tensor names in the library.

        Args:
            pattern: the start of a block's tensor names, with {} for the block's number.
            count_key: the config's key for the number of blocks, or "" if there is none.

        Raises:
            CheckpointError: the blocks are not numbered 0, 1, 2, ...
        """
        start, end = pattern.split("{}")
        numbers = {name[len(start) :].split(".")[0] for name in self.tensors if name.startswith(start)}
        count = len(numbers)
        if numbers != {str(i) for i in range(count)} or not count:
            raise CheckpointError(f"the blocks {pattern.rstrip('.')} are not numbered 0, 1, 2, ...")
        if count_key:
            self.claim(**{count_key: count})
        for i in range(count):
            self.block = f"{start}{i}{end}"
            yield f"Encoder/encoderblock_{i}"
        self.block = ""

    def trained_grid(self) -> tuple[int, int]:
        """Return the (rows, columns) of patches at the config's image size, or (0, 0) if the config has no image size."""
        height, width = self.patch
        pretrained = self.config.get("pretrained_cfg")
        size = self.config.get("image_size")
        args = self.config.get("model_args")
        if isinstance(pretrained, Mapping) and isinstance(pretrained.get("input_size"), Sequence):
            size = pretrained["input_size"][-2:]
        if isinstance(args, Mapping) and args.get("img_size"):
            size = args["img_size"]
        size = [size, size] if isinstance(size, int) else size
        if not (isinstance(size, Sequence) and len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size)):
            return 0, 0
        return size[0] // height, size[1] // width

    def check(self, name: str, *sizes: int | None) -> Shape:
        """Return the shape of a required tensor. Raise CheckpointError if the shape differs from `sizes`.

        In `sizes`, None allows any size.
        """
        found = self.shape(name, len(sizes))
        wanted = tuple(own if size is None else size for own, size in zip(found, sizes, strict=True))
        if found != wanted:
            raise CheckpointError(f"tensor {self.told(name)} has shape {found}, but the rest of the model needs {wanted}")
        return found
