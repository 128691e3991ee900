"""The tensors and the config.json of a model of another library, by name."""

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
    "pooling": ("whether the head gets the class token or the mean of the patches", "--pooling token or --pooling avg"),
}
"""What no tensor states, and the option for it, by the option's name."""
_FILLERS = {"heads": 1, "activation": "gelu", "pooling": None}
"""Stand for what is missing while the rest is read, so that one message lists all that is."""


@dataclass
class ForeignModel:
    """A model of a family, under that library's names.

    Attributes:
        tensors: shape and dtype by name without the family's prefix; other names have "../" in front.
        prefix: the family's prefix.
        config: the content of a config.json, or empty.
        given: the user's options by name; None if not given.
        image_size: (height, width) of the user or of the preprocessing config.
        used: names of the tensors that were read.
        asked: names of the options that this model needs or could need.
        missing: names of the options without which the model is not known.
        taken: the usual values that are used because neither tensors, config nor user state them, by what they are.
        heads: the number of attention heads, set by `choose_heads`.
        width, patch: D, and the (height, width) of a patch, set when the patch embedding is read.
        block: what names of the encoder block begin with that `blocks` has reached; methods take names behind it.
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
        """A tensor's name in the file."""
        return name.removeprefix("../") if name.startswith("../") else self.prefix + self.block + name

    def has(self, name: str) -> bool:
        """Whether there is such a tensor."""
        return self.block + name in self.tensors

    def shape(self, name: str, ndim: int) -> Shape:
        """The shape of a required tensor. Raises CheckpointError if it is missing or has another number of dimensions."""
        info = self.tensors.get(self.block + name)
        if info is None:
            raise CheckpointError(f"the checkpoint has no tensor {self.told(name)}")
        if len(info.shape) != ndim or 0 in info.shape:
            raise CheckpointError(f"tensor {self.told(name)} has shape {info.shape}, but it needs {ndim} sizes above 0")
        if info.dtype.kind not in "fV":
            raise CheckpointError(f"tensor {self.told(name)} holds {info.dtype} values, which are not weights")
        self.used.add(self.block + name)
        return info.shape

    def leave_out(self, start: str) -> None:
        """The tensors whose names begin so have no part in the outputs."""
        self.used.update(name for name in self.tensors if name.startswith(start))

    def setting(self, key: str, default: Any, *choices: Any) -> Any:
        """A value of the config.json: it has the default's type, and is one of the `choices` if there are any.

        Raises:
            ConfigError: it has another type, or is not one of the choices.
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
        """Checks what the config says about the tensors. Raises ConfigError if it contradicts them."""
        for key, value in found.items():
            if self.config.get(key) not in (None, value):
                raise ConfigError(f"the config says {key} {shown(self.config[key])}, but the checkpoint has {value}")

    def refuse(self, why: str, *names: str) -> None:
        """Refuses a model that has one of these tensors. Raises ConfigError."""
        if found := next((name for name in names if self.has(name)), None):
            raise ConfigError(f"{why} can't be exported (it has a tensor {found})")

    def choose(self, option: str, said: Any, source: str, usual: Any = None) -> Any:
        """A value that no tensor states: the config's, the user's, or else the usual one, which a note will list.

        If there is none, the option becomes one of `missing`.

        Args:
            option: the name of the user's option, a key of `_ASKED`.
            said: the config's value; None if it has none.
            source: the start of a sentence about it, such as "the config says hidden_act".
            usual: the library's default for a config without it, or the value that all released models share.

        Raises:
            OptionError: the option contradicts the config.
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
        """Raises OptionError if something is missing: what, and the ways to state it."""
        if self.missing:
            facts, options = zip(*(_ASKED[option] for option in self.missing), strict=True)
            name = "--architecture NAME, or " if has_architectures and not self.config else ""
            raise OptionError(
                f"neither the tensors nor a config say {' or '.join(facts)}; pass {name}{' and '.join(options)}, or the "
                "model's config.json with --config"
            )

    def choose_heads(self, said: int | None, source: str, usual: int | None = None) -> None:
        """Sets the number of heads, see `choose`. Raises OptionError if they don't divide the hidden size."""
        self.heads = found = self.choose("heads", said, source, usual)
        if found < 1 or self.width % found:
            told = f"{source} {said}" if said is not None else f"--heads N sets the number of attention heads, and {found}"
            raise OptionError(f"{told} doesn't divide the hidden size {self.width}")

    def blocks(self, pattern: str, count_key: str = "") -> Iterator[str]:
        """Yields our path of each encoder block; the names of its tensors begin with `pattern` with the number in it.

        Raises:
            CheckpointError: they are not numbered 0, 1, 2, ...
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
        """Rows and columns of patches at the config's image size; (0, 0) if it states none."""
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
        """The shape of a required tensor with these sizes; None stands for any size. Raises CheckpointError."""
        found = self.shape(name, len(sizes))
        wanted = tuple(own if size is None else size for own, size in zip(found, sizes, strict=True))
        if found != wanted:
            raise CheckpointError(f"tensor {self.told(name)} has shape {found}, but the rest of the model needs {wanted}")
        return found
