"""The engine: a loaded bundle that runs at any capacity."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, NoReturn, Self, Unpack

import numpy as np

from vmoe_runtime.backends import BACKENDS, Array, Backend, Parallelism, open_backend
from vmoe_runtime.bundle.manifest import Manifest
from vmoe_runtime.bundle.reader import Bundle, while_unchanged
from vmoe_runtime.classes import margins_of, most_probable, probabilities_of
from vmoe_runtime.errors import BackendError, ClassifyError, ImageError, RoutingError, UsageError, shown
from vmoe_runtime.images import Images, to_batch
from vmoe_runtime.profiles import Profile, SettingLike
from vmoe_runtime.routing import Routing, layer_outputs, layer_routings, layer_rows
from vmoe_runtime.settings import Setting, SettingFields, as_whole, checked_flag


class Engine:
    """A loaded bundle. One loaded graph serves every profile, for calls from any number of threads.

    The backends "cuda-fixed", "ort-tensorrt" and "tensorrt" are exceptions: they run only the profile that they were loaded
    for.

    Attributes:
        manifest: the bundle's checked manifest.
        backend: the name of the backend that runs.
        backend_description: the backend's runtime and version, and whether the op library is used.
        only_profile: the only profile that the backend can run; None if the backend runs any profile.

    Examples:
        >>> with Engine.load(bundle, profile="c0.3-k1") as engine:
        ...     logits = engine(images)
        ...     vanilla = engine(images, capacity=0.5, k=2, bpr=False)
        >>> logits.shape, vanilla.shape
        ((16, 10), (16, 10))
    """

    def __init__(self, manifest: Manifest, profile: Profile | None, backend: str, loaded: Backend) -> None:
        """Make an engine from a loaded backend. To make an engine from a bundle, call `load`.

        Args:
            manifest: the bundle's manifest.
            profile: the setting for calls that specify no setting.
            backend: name of the backend.
            loaded: the backend, with the bundle's graph.
        """
        self.manifest, self._profile = manifest, profile
        self.backend, self.backend_description = backend, loaded.description
        self.only_profile = profile if BACKENDS[backend].one_profile else None
        self._backend: Backend | None = loaded  # None after the engine is closed
        self._process = os.getpid()
        self._warned: set[str] = set()

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        profile: SettingLike = None,
        backend: str = "auto",
        threads: int | None = None,
        *,
        streams: int | None = None,
        spin: bool = False,
        verify: bool = True,
        exif: bool | None = None,
    ) -> Engine:
        """Load a bundle. Engines in a process share one loaded copy if files, backend and thread options match.

        Args:
            path: the `NAME.vmoe` folder.
            profile: the setting for calls that specify no setting. It is the name of a stored profile, any systematic name
                such as `c0.3-k1` or `c0.2-k1-pool-m4`, or a `Setting`. Default: the first stored profile.
            backend: "onnxruntime" or "openvino" for the CPU; "cuda", "cuda-fixed", "ort-tensorrt" or "tensorrt" for an
                NVIDIA GPU; or "auto" for CUDA if it works, else the fastest backend that is installed. `engine.backend` and
                `engine.backend_description` describe the backend in use.
            threads: CPU threads per call. The maximum is 64 or four per CPU, whichever is more. Default: the runtime chooses
                the number, within a container's limit on CPU time. Backends on a GPU ignore this value.
            streams: maximum number of concurrent calls, each on its own `threads` threads; further calls wait. Only
                "openvino" supports more than one stream. Default: the runtime chooses the number.
            spin: let ONNX Runtime's threads spin for tens of milliseconds after a call, instead of sleeping.
            verify: check the SHA-256 of every file.
            exif: whether to turn pictures by their EXIF orientation. Default: as in the bundle's preprocessing.

        Raises:
            BundleError: the bundle is missing, damaged or was changed.
            RoutingError: the model can't be run with the profile.
            BackendError: the backend is missing or can't load the graph, or the bundle has no graph for the profile.
            UsageError: `spin`, `verify` or `exif` is neither True nor False.
        """
        spin, verify = checked_flag("spin", spin, UsageError), checked_flag("verify", verify, UsageError)
        rotates = None if exif is None else checked_flag("exif", exif, UsageError)

        def load_once() -> Engine:
            cpu = Parallelism(threads, streams, spin)
            with Bundle.open_once(path, verify=verify) as bundle:
                manifest = bundle.manifest if rotates is None else bundle.manifest.with_exif(rotates)
                chosen = _profile_of(manifest, next(iter(manifest.profiles.values()), None), profile, {})
                # Compute the hash of the weights in a second thread while the backend loads the weights.
                with ThreadPoolExecutor(1) as pool:
                    weights = pool.submit(bundle.verify_weights if verify else lambda: None)
                    try:
                        name, loaded = open_backend(backend, bundle, cpu, chosen)
                    finally:
                        # If the weights have changed, raise the error about the weights first, because the change explains
                        # all other errors.
                        weights.result()
                return cls(manifest, chosen, name, loaded)

        return while_unchanged(load_once)

    @property
    def profile(self) -> Profile | None:
        """The setting for calls that specify no setting. It is None for a dense ViT or a Soft MoE without profiles."""
        return self._profile

    @property
    def profiles(self) -> Mapping[str, Profile]:
        """The stored profiles by name. The mapping is empty for a dense ViT or a Soft MoE without profiles."""
        return self.manifest.profiles

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes, or None if the bundle has none."""
        return self.manifest.class_names

    def __call__(self, images: Images, setting: SettingLike = None, **fields: Unpack[SettingFields]) -> Array | Any:
        """Return the logits, features, members or tokens of a batch of images.

        Args:
            images: see `vmoe_runtime.images.to_batch`; the number of images must be a multiple of the bundle's
                `batch_multiple`.
            setting: a profile from `engine.setting`, the name of a profile, or a `Setting`. Default: the engine's profile.
            **fields: values that replace fields of the setting, such as capacity=0.5, k=2, bpr=False, merge=8, or
                profile="c0.3-k1".

        Returns:
            The output that the bundle was exported for:
            - logits: float32[N, classes]
            - features: float32[N, feature size]
            - members of an ensemble (E3): float32[N, M, classes]
            - tokens: float32[N, tokens, hidden size]
            If the bundle was exported with `--layers`, the result is a dict of all outputs instead of one array; see
            `outputs`.

        Raises:
            ImageError, RoutingError: the images or the setting don't suit the model or its graph.
            BackendError: the runtime failed, or the engine is closed.
        """
        found = self.outputs(images, setting, **fields)
        return found if len(found) > 1 else found[self.manifest.output]

    def outputs(self, images: Images, setting: SettingLike = None, **fields: Unpack[SettingFields]) -> dict[str, Array]:
        """Return all of the model's outputs for a batch of images, by name. Arguments and errors are as for `__call__`.

        Returns:
            Arrays by name. The array named `manifest.output` is the logits, features, members or tokens; see `__call__`. If
            the bundle was exported with `--layers`, there is also an array "layerB" for each selected block B. It is the
            residual stream after block B, before any norm, as float32[N, tokens, hidden size].
        """
        names = [*self.manifest.answers]
        return dict(zip(names, self._run(images, names, setting, fields), strict=True))

    def batch(self, images: Images) -> Array:
        """Convert images to the graph's input, for callers that run the same images more than once.

        Returns:
            An array [N,H,W,C] of float32 or uint8. A call that gets this array converts nothing.

        Raises:
            ImageError: as for a call.
        """
        return to_batch(images, self.manifest.input, self._warned)

    def classify(
        self,
        images: Images,
        top: int = 5,
        setting: SettingLike = None,
        **fields: Unpack[SettingFields],
    ) -> list[list[tuple[str | int, float]]]:
        """Return the most likely classes of a batch of images.

        Args:
            images: as for a call.
            top: number of classes per image; all classes if the model has fewer.
            setting: as for a call.
            **fields: as for a call.

        Returns:
            For each image, a list of (class, probability) pairs, the most likely class first. If two classes are equally
            likely, the class with the lower index comes first. The class is a name, or an index if the bundle has no names.
            The probability is a double: the softmax over all classes or the sigmoid of the class's own logit, depending on
            `manifest.probabilities`. It is NaN if a logit is not finite.

        Raises:
            ClassifyError: the bundle outputs features, tokens or members, or `top` is not a whole number of at least 1.
            ImageError, RoutingError, BackendError: as for a call.

        Examples:
            >>> with Engine.load(bundle) as engine:
            ...     answers = engine.classify(images, top=2)
            >>> [index for index, probability in answers[0]]
            [2, 5]
        """
        if (output := self.manifest.output) in ("features", "tokens"):
            raise ClassifyError(f"this bundle outputs {output}, which have no classes; call the engine for them")
        if self.manifest.output == "members":
            raise ClassifyError("this bundle outputs each member's logits; call the engine for them, or export with logits")
        if (count := as_whole(top)) is None or count < 1:
            raise ClassifyError(f"top must be a whole number from 1 on, not {top!r:.40}")
        logits = self.outputs(images, setting, **fields)[output]
        names: Sequence[str | int] = self.class_names or range(self.manifest.outputs)
        probabilities = probabilities_of(logits, self.manifest.probabilities)
        return [
            [(names[index], float(shares[index])) for index in best]
            for best, shares in zip(most_probable(logits, count), probabilities, strict=True)
        ]

    def routing(self, images: Images, setting: SettingLike = None, **fields: Unpack[SettingFields]) -> dict[str, Routing]:
        """Return the routing of a batch of images in each MoE layer. Arguments are as for a call.

        Returns:
            A `Routing` for each MoE block, by the block's name, such as "encoderblock_1". For a dense ViT, the dict is
            empty.
        """
        return self._routed(images, self.setting(setting, **fields), [])[1]

    def logits_and_routing(
        self, images: Images, setting: SettingLike = None, **fields: Unpack[SettingFields]
    ) -> tuple[Array, dict[str, Routing]]:
        """Return the output `manifest.output` and the result of `routing`. Both come from a single run of the model.

        Arguments are as for a call.
        """
        outputs, routing = self._routed(images, self.setting(setting, **fields), [self.manifest.output])
        return outputs[0], routing

    def cascade(self, *, first: SettingLike, then: SettingLike, margin: float) -> Cascade:
        """Return a cascade, which runs images with low confidence again at a high setting.

        The first step runs all images at a low setting. Both steps use this engine.

        Args:
            first: the setting of the first step, as for a call.
            then: the setting of the second step.
            margin: an image is escalated to the second step if its two largest probabilities differ by less than `margin`.
                The value is from 0 to 1, or above 1 to escalate all images. `vmoe_measure.cascade.calibrated_margin`
                computes a margin from images.

        Raises:
            RoutingError: the model can't be run with one of the settings.
            ClassifyError: the bundle has no logits or no settings, or the margin is out of range.

        Examples:
            >>> with Engine.load(bundle) as engine:
            ...     cascade = engine.cascade(first="c0.2-k1-pool", then="c1.05-k2", margin=0.5)
            ...     logits, escalated = cascade.answers(images)
            >>> logits.shape, escalated.shape
            ((16, 10), (16,))
        """
        low, high, output = self.setting(first), self.setting(then), self.manifest.output
        if output != "logits":
            raise ClassifyError(f"a cascade needs logits to tell how sure an answer is, and this bundle outputs {output}")
        if low is None or high is None:
            raise ClassifyError("a cascade needs two settings, and this model has nothing to set")
        if isinstance(margin, bool) or not isinstance(margin, int | float | np.number) or not margin >= 0:
            raise ClassifyError(f"the margin of a cascade is a number from 0 to 1, not {shown(margin)}")
        return Cascade(self, low, high, float(margin))

    def setting(self, setting: SettingLike = None, **fields: Unpack[SettingFields]) -> Profile | None:
        """Return the profile that a call with these arguments uses.

        The result is None if the model neither routes nor merges tokens. If several calls share a setting, pass this profile
        to them. The setting is then validated only once.

        Raises:
            RoutingError: the model can't be run with the setting.
        """
        return _profile_of(self.manifest, self.profile, setting, fields)

    def close(self) -> None:
        """Close the engine; later calls raise BackendError.

        The memory of the loaded graph is freed once running calls are done and no other engine shares the graph.
        """
        self._backend = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an engine can't be pickled or copied; load it in each process that uses it. Engines of one process on the same "
            "bundle share one copy of the weights"
        )

    def __repr__(self) -> str:
        profile = "" if self.profile is None else f", profile {self.profile.name}"
        closed = ", closed" if self._backend is None else ""
        return f"<Engine: {self.manifest.summary}{profile}, {self.manifest.precision}, {self.backend_description}{closed}>"

    def _routed(self, images: Images, profile: Profile | None, outputs: list[str]) -> tuple[list[Array], dict[str, Routing]]:
        """Return the requested outputs of the model, and the routing of each MoE layer by the layer's name."""
        names = list(layer_outputs(self.manifest, fixed=self.only_profile))
        of_layers = [f"{layer}/{name}" for layer in self.manifest.moe_layers for name in names]
        # If no outputs are requested, request the main output, because runtimes refuse a call without outputs.
        values = self._run(images, outputs + of_layers or [self.manifest.output], profile, {})
        return values[: len(outputs)], layer_routings(self.manifest, profile, names, values[len(outputs) :])

    def _run(self, images: Images, outputs: list[str], setting: SettingLike, fields: SettingFields) -> list[Array]:
        """Return the graph outputs whose names are in `outputs`. The setting is chosen as in `__call__`."""
        backend, manifest = self._backend, self.manifest
        profile = self.profile if setting is None and not fields else self.setting(setting, **fields)
        if backend is None:
            raise BackendError("the engine is closed")
        if os.getpid() != self._process:
            raise BackendError(
                "the engine was loaded before this process was forked, and none of its threads came along; load it in each "
                "process that uses it"
            )
        batch = to_batch(images, manifest.input, self._warned)
        if misfit := manifest.misfit(len(batch)):
            raise ImageError(f"the batch has {len(batch)} images, and this {misfit}")
        feeds = {"image": batch}
        if BACKENDS[self.backend].one_profile:
            self._check_profile(self.only_profile or manifest.rules.profile(), profile)
        elif profile is not None:
            feeds |= profile.inputs
        results = backend.run(feeds, outputs)
        _check_rows(manifest, len(batch), outputs, results)
        answers = {name: values for name, values in zip(outputs, results, strict=True) if name in manifest.answers}
        wrong = next((name for name, values in answers.items() if not _all_finite(values)), None)
        if wrong is not None and np.isfinite(batch).all():
            raise BackendError(
                f"the model's {wrong} of finite images are not all finite numbers: its weights are damaged, or "
                f"{manifest.precision} has no room for its values"
            )
        return results

    def _check_profile(self, only: Profile, profile: Profile | None) -> None:
        if profile is not None and profile.effect != only.effect:
            raise RoutingError(
                f"backend '{self.backend}' was loaded for profile '{only.name}' and can't run '{profile.name}'; load an "
                f"engine with profile='{profile.name}', or take a backend that runs any profile"
            )


@dataclass(frozen=True)
class Cascade:
    """An engine that classifies images in two steps. `Engine.cascade` makes one.

    Attributes:
        engine: the engine that runs both steps.
        first: the low setting, at which the first step runs all images.
        then: the high setting, at which the second step runs the escalated images again.
        margin: an image is escalated if its two largest probabilities differ by less than `margin`. The value is from 0 to
            1, or above 1 to escalate all images.
    """

    engine: Engine
    first: Profile
    then: Profile
    margin: float

    def __call__(self, images: Images) -> Array:
        """Return the logits of a batch of images; see `Engine.__call__`.

        Returns:
            float32[N, classes]. The logits of an escalated image come from the second step.
        """
        return self.answers(images)[0]

    def answers(self, images: Images) -> tuple[Array, Array]:
        """Return the logits of a batch of images, and which of the images were escalated.

        The images with the lowest confidence are escalated. If a routing group contains several images, the number of
        escalated images is rounded up to whole groups. The logits of the second step then depend on which images share a
        group.

        Returns:
            The logits, float32[N, classes], and whether each image was escalated, bool[N].

        Raises:
            ImageError, BackendError: as for a call of the engine.
        """
        batch = self.engine.batch(images)
        logits = self.engine.outputs(batch, self.first)[self.engine.manifest.output]
        margins = margins_of(logits)
        count = int(np.count_nonzero(~(margins >= self.margin)))
        count += -count % self.engine.manifest.batch_multiple
        # Treat NaN as the lowest confidence.
        order = np.argsort(np.where(np.isnan(margins), -1.0, margins), kind="stable")
        chosen = np.sort(order[:count])
        escalated = np.zeros(len(batch), bool)
        escalated[chosen] = True
        if count:
            logits = logits.copy()
            again = self.engine.outputs(np.ascontiguousarray(batch[chosen]), self.then)
            logits[chosen] = again[self.engine.manifest.output]
        return logits, escalated


def _profile_of(manifest: Manifest, base: Profile | None, setting: SettingLike, fields: SettingFields) -> Profile | None:
    """Return the profile for a setting and its fields, as `Engine.setting` does.

    If neither `setting` nor `fields` specifies a profile, `base` is used.
    """
    if isinstance(setting, Profile):
        if setting.rules is None:
            raise RoutingError(
                f"profile '{setting.name}' was not made by an engine; change one as in engine.setting(profile, k=2)"
            )
        if setting.rules != manifest.rules:
            raise RoutingError(f"profile '{setting.name}' was made for another model")
        base, setting = setting, None
    elif isinstance(setting, str):
        base, setting = manifest.profile_named(setting), None
    if setting is None and not fields:
        return base
    if not isinstance(setting, Setting | None):
        raise RoutingError(f"a setting is a Setting, a Profile or the name of a profile, not {shown(setting)}")
    requested = setting if setting and not fields else replace(setting or Setting(), **fields)
    if requested.profile is not None:
        base = manifest.profile_named(requested.profile)
    return manifest.rules.profile_of(requested, base) if requested.values else base


def _check_rows(manifest: Manifest, images: int, outputs: Sequence[str], results: Sequence[Array]) -> None:
    """Check that each result has one row per image or, for routing outputs, one row per routing group."""
    for name, values in zip(outputs, results, strict=True):
        expected = (images, *manifest.answers.get(name, ()))
        if name not in manifest.answers:
            expected = (layer_rows(manifest, name, images) or len(values), *values.shape[1:])
        if values.shape != expected:
            raise BackendError(f"the graph's output '{name}' has shape {values.shape}, and {images} images need {expected}")


def _all_finite(values: Array) -> bool:
    # If there is a NaN, argmax and argmin both return its index. np.isfinite(values).all() is slower: in a small model, it
    # would take 2 % of the call time.
    return math.isfinite(values.item(values.argmax())) and math.isfinite(values.item(values.argmin()))
