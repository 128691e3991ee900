"""The engine: one loaded bundle that answers at any capacity."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

import numpy as np

from vmoe_runtime.backends import Backend, Parallelism, open_backend
from vmoe_runtime.bundle.manifest import Manifest
from vmoe_runtime.bundle.reader import Bundle, while_unchanged
from vmoe_runtime.cascade import Cascade, check_cascade
from vmoe_runtime.classes import likeliest, softmax
from vmoe_runtime.errors import BackendError, ClassifyError, ImageError, RoutingError, shown
from vmoe_runtime.images import Images, to_batch
from vmoe_runtime.profiles import Profile, Setting
from vmoe_runtime.routing import Routing, layer_outputs, layer_routings

if TYPE_CHECKING:
    from vmoe_runtime.profiles import SettingFields

Array = np.ndarray[Any, np.dtype[Any]]

_MOST_NAMES = 1024  # of profiles that an engine keeps: names may come from strangers


class Engine:
    """A loaded bundle. One session serves every profile, from any number of threads.

    "cuda-fixed" and TensorRT's backends are the exception: what they load is fixed to the profile that the engine is loaded
    with, and `only_profile` is that one, where it is None with others.

    Attributes:
        manifest: the bundle's checked manifest.
        backend: the name of the backend that runs.
        backend_description: its runtime, that one's version, and whether the op library is used.
        profile: what calls use when they say nothing else; None for a dense ViT and a Soft MoE.
        only_profile: see above.

    Example:
        >>> with Engine.load(bundle, profile="c0.3-k1") as engine:
        ...     logits = engine(images)
        ...     vanilla = engine(images, capacity=0.5, k=2, bpr=False)
        >>> logits.shape, vanilla.shape
        ((16, 10), (16, 10))
    """

    def __init__(self, bundle: Bundle, backend_name: str, backend: Backend, profile: Profile | None) -> None:
        self.manifest = bundle.manifest
        self._process = os.getpid()
        self._backend: Backend | None = backend
        self.backend = backend_name
        self.backend_description = backend.description
        self.profile = profile
        self.only_profile = backend.profile
        self._warned: set[str] = set()
        self._last_inputs: tuple[Profile, Mapping[str, Array]] | None = None
        self._named: dict[str, Profile] = {}

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        profile: str | None = None,
        backend: str = "auto",
        threads: int | None = None,
        *,
        streams: int | None = None,
        verify: bool = True,
    ) -> Engine:
        """Loads a bundle. Engines of one process on the same files, backend, threads and streams share one loaded copy.

        Args:
            path: the `NAME.vmoe` folder.
            profile: name of the profile that calls use when they say nothing else: a stored one, or any systematic name
                such as `c0.3-k1` or `c0.2-k1-pool-m4`. Default: the first stored one.
            backend: "onnxruntime" or "openvino" for the CPU; "cuda", "cuda-fixed", "ort-tensorrt" or "tensorrt" for an
                NVIDIA GPU; or "auto" for CUDA where it works, else the fastest that is installed. `engine.backend` and
                `engine.backend_description` say what runs.
            threads: CPU threads per call; default: the runtime's own choice. Backends on a GPU ignore it.
            streams: calls that are run at once, each on `threads` threads of its own; further ones wait. Only "openvino" has
                more than one. Default: the runtime's own choice.
            verify: check the SHA-256 of every file.

        Raises:
            BundleError: the bundle is missing, damaged or was changed.
            RoutingError: the profile can't be.
            BackendError: the backend is missing, can't load the graph, or has none for the profile.
        """
        return while_unchanged(lambda: cls._load(path, profile, backend, Parallelism(threads, streams), verify))

    @classmethod
    def _load(
        cls, path: str | os.PathLike[str], profile: str | None, backend: str, parallelism: Parallelism, verify: bool
    ) -> Engine:
        with Bundle.open(path, verify=verify) as bundle:
            chosen = _chosen_profile(bundle.manifest, profile)
            # The weights are hashed while the backend loads them: neither waits for the other.
            with ThreadPoolExecutor(1) as pool:
                weights = pool.submit(bundle.verify_weights if verify else lambda: None)
                try:
                    loaded = open_backend(backend, bundle, parallelism, chosen)
                finally:
                    # Changed weights are the better explanation of whatever else went wrong.
                    weights.result()
            return cls(bundle, *loaded, chosen)

    @property
    def profiles(self) -> Mapping[str, Profile]:
        """The stored profiles by name; empty for a dense ViT."""
        return self.manifest.profiles

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes, or None if the bundle has none."""
        return self.manifest.class_names

    def __call__(self, images: Images, setting: Setting | str | None = None, **fields: Unpack[SettingFields]) -> Array:
        """Logits, or features, of a batch of images.

        Args:
            images: see `vmoe_runtime.images.to_batch`; the number of images must be a multiple of the bundle's
                `batch_multiple`.
            setting: a setting, or the name of a profile; default: the engine's profile.
            **fields: fields of a `Setting` to replace in it, such as capacity=0.5, k=2, bpr=False, pool=True,
                max_experts=4, or profile="c0.3-k1".

        Returns:
            float32[N, classes]; or float32[N, feature size] if the bundle was exported for features, or
            float32[N, M, classes] if it was for the members of an ensemble (E3).

        Raises:
            ImageError, RoutingError: what was asked for doesn't fit the model, or what its graph was built for.
            BackendError: the runtime failed, or the engine is closed.
        """
        return self._run(images, self.setting(setting, **fields), [self.manifest.output])[0]

    def batch(self, images: Images) -> Array:
        """What a call makes of images before it runs, for callers that run the same ones more than once.

        Returns:
            float32 or uint8 [N,H,W,C], as the graph takes it; a call takes it as it is.

        Raises:
            ImageError: as for a call.
        """
        return to_batch(images, self.manifest.input, self._warned)

    def classify(
        self,
        images: Images,
        top: int = 5,
        setting: Setting | str | None = None,
        **fields: Unpack[SettingFields],
    ) -> list[list[tuple[str | int, float]]]:
        """The likeliest classes of a batch of images; images and settings as for a call.

        Args:
            images: as for a call.
            top: how many classes; all of them where the model has fewer.
            setting: as for a call.
            **fields: as for a call.

        Returns:
            For each image pairs, the likeliest first, and of equally likely ones the lower index: the name of the class, or
            its index where the bundle has no names; and its probability, by softmax over all classes in double precision.
            Where a logit is no finite number, the probabilities are NaN.

        Raises:
            ClassifyError: the bundle puts out features or members, or `top` is no whole number from 1 on.
            ImageError, RoutingError, BackendError: as for a call.

        Example:
            >>> with Engine.load(bundle) as engine:
            ...     answers = engine.classify(images, top=2)
            >>> [index for index, probability in answers[0]]
            [2, 5]
        """
        if self.manifest.output == "features":
            raise ClassifyError("this bundle puts out features, which have no classes; call the engine for them")
        if self.manifest.output == "members":
            raise ClassifyError("this bundle puts out each member's logits; call the engine for them, or export with logits")
        if isinstance(top, bool) or not isinstance(top, int | np.integer) or top < 1:
            raise ClassifyError(f"top must be a whole number from 1 on, not {top!r:.40}")
        logits = self(images, setting, **fields)
        names: Sequence[str | int] = self.class_names or range(self.manifest.outputs)
        return [
            [(names[index], float(shares[index])) for index in best]
            for best, shares in zip(likeliest(logits, int(top)), softmax(logits), strict=True)
        ]

    def routing(
        self, images: Images, setting: Setting | str | None = None, **fields: Unpack[SettingFields]
    ) -> dict[str, Routing]:
        """Where each MoE layer sends the tokens of a batch; arguments as for a call.

        Returns:
            By name of the MoE block, such as "encoderblock_1"; empty for a dense ViT.
        """
        return self._routed(images, self.setting(setting, **fields), [])[1]

    def logits_and_routing(
        self, images: Images, setting: Setting | str | None = None, **fields: Unpack[SettingFields]
    ) -> tuple[Array, dict[str, Routing]]:
        """What a call and `routing` give, from one run of the model; arguments as for a call."""
        outputs, routing = self._routed(images, self.setting(setting, **fields), [self.manifest.output])
        return outputs[0], routing

    def _routed(self, images: Images, profile: Profile | None, outputs: list[str]) -> tuple[list[Array], dict[str, Routing]]:
        """Some outputs of the model, and where its MoE layers send the tokens."""
        layers = self.manifest.moe_layers
        fixed = self._backend is not None and self._backend.profile is not None
        names = list(layer_outputs(self.manifest, fixed=fixed))
        # A graph must be asked for something.
        asked = outputs + [f"{layer}/{name}" for layer in layers for name in names] or [self.manifest.output]
        values = self._run(images, profile, asked)
        found = layer_routings(self.manifest, profile, names, values[len(outputs) :])
        return values[: len(outputs)], dict(zip(layers, found, strict=True))

    def cascade(self, *, first: Setting | str, then: Setting | str, margin: float) -> Cascade:
        """Two-step inference with one loaded engine: a low setting, and a high one for the images it is not sure of.

        Args:
            first: the setting of the first step, or the name of a profile.
            then: that of the second.
            margin: images are sent on whose two likeliest classes differ by less in probability, 0 to 1. See
                `vmoe_runtime.cascade.calibrated_margin`, which finds one on images.

        Raises:
            RoutingError: a setting that the model can't be run with.
            ClassifyError: the bundle has no logits or nothing to set, or there is no such margin.

        Example:
            >>> with Engine.load(bundle) as engine:
            ...     cascade = engine.cascade(first="c0.2-k1-pool", then="c1.05-k2", margin=0.5)
            ...     logits, escalated = cascade.answers(images)
            >>> logits.shape, escalated.shape
            ((16, 10), (16,))
        """
        return check_cascade(self, self.setting(first), self.setting(then), margin)

    def setting(self, setting: Setting | str | None = None, **fields: Unpack[SettingFields]) -> Profile | None:
        """The profile that a call with these arguments runs with; None for a dense ViT and a Soft MoE.

        Raises:
            RoutingError: a setting that the model can't be run with.
        """
        if not fields and (setting is None or isinstance(setting, str)):
            return self.profile if setting is None else self._profile_named(setting)
        asked = Setting.of(setting, fields)
        base = self.profile if asked.profile is None else self._profile_named(asked.profile)
        changes = asked.changes
        if not changes:
            return base
        rules = self.manifest.rules
        if rules is None:
            raise RoutingError("this is a dense model: it has no capacity, k, bpr, pool or max_experts")
        rules.check_names(changes)
        assert base is not None
        return rules.changed(base, changes)

    def close(self) -> None:
        """Lets go of the session; later calls raise BackendError.

        Its memory is given back once running calls are done and no other engine shares it.
        """
        self._backend = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        profile = "" if self.profile is None else f", profile {self.profile.name}"
        closed = ", closed" if self._backend is None else ""
        return f"<Engine: {self.manifest.summary}{profile}, {self.manifest.precision}, {self.backend_description}{closed}>"

    def _run(self, images: Images, setting: Profile | None, outputs: list[str]) -> list[Array]:
        backend = self._backend
        if backend is None:
            raise BackendError("the engine is closed")
        if os.getpid() != self._process:
            raise BackendError(
                "the engine was loaded before this process was forked, and none of its threads came along; load it in each "
                "process that uses it"
            )
        manifest = self.manifest
        batch = to_batch(images, manifest.input, self._warned)
        if len(batch) % manifest.batch_multiple:
            raise ImageError(
                f"the batch has {len(batch)} images, and this bundle routes in groups ({manifest.group}) "
                f"that need a multiple of {manifest.batch_multiple}"
            )
        if backend.profile is not None:
            self._check_profile(backend.profile, setting)
            setting = None
        inputs = {} if setting is None else self._inputs_of(setting)
        return backend.run({"image": batch, **inputs}, outputs)

    def _inputs_of(self, setting: Profile) -> Mapping[str, Array]:
        """The graph inputs of a setting. The last one's are kept: most calls have that of the call before."""
        last = self._last_inputs
        if last is None or last[0] is not setting:
            self._last_inputs = last = (setting, setting.inputs())
        return last[1]

    def _profile_named(self, name: str) -> Profile:
        """The profile of a name; those that were asked for are kept, as most calls ask for the same few."""
        found = self._named.get(name) if isinstance(name, str) else None
        if found is None:
            found = _chosen_profile(self.manifest, name)
            assert found is not None
            if len(self._named) >= _MOST_NAMES:
                self._named.clear()
            self._named[name] = found
        return found

    def _check_profile(self, only: Profile, asked: Profile | None) -> None:
        if asked is not None and replace(asked, name="", capacity_ratio=0) != replace(only, name="", capacity_ratio=0):
            raise RoutingError(
                f"backend '{self.backend}' was loaded for profile '{only.name}' and can't run '{asked.name}'; load an "
                f"engine with profile='{asked.name}', or take a backend that runs any profile"
            )


def _chosen_profile(manifest: Manifest, name: str | None) -> Profile | None:
    if name is None:
        return next(iter(manifest.profiles.values()), None)
    if not isinstance(name, str):
        raise RoutingError(f"a profile is given by its name, not by {shown(name)}")
    if name in manifest.profiles:
        return manifest.profiles[name]
    if manifest.rules is None:
        raise RoutingError(f"this is a dense model: it has no profile '{name}'")
    return manifest.rules.named(name, manifest.profiles)
