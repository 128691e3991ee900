"""How a card looks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from rich.table import Table
from rich.text import Text

from vmoe_tools.command_line import printable
from vmoe_tools.inspect.card import Card, CardRouting, ProfileCard
from vmoe_tools.inspect.recorded import Differences
from vmoe_tools.inspect.sections import WIDTH_OF_A_PIPE, Row, one_line, open_console, plain_table, print_section
from vmoe_tools.inspect.tensors import ListedTensor

_WIDTH_OF_A_LIST = 1000  # of a pipe: a line stays one
_DIGITS_OF_A_HASH = 16


def print_card(card: Card, stream: TextIO, *, list_tensors: bool = False) -> None:
    """Prints a card, in sections of at most 80 columns where the stream is no terminal.

    Args:
        card: what to print.
        stream: where to.
        list_tensors: print a line for each tensor as well.
    """
    console = open_console(stream, WIDTH_OF_A_PIPE)
    print_section(console, one_line(Path(card.bundle).resolve().name), _model(card))
    if card.routing:
        print_section(console, "MoE layers", _layers(card, card.routing))
    print_section(console, "Input and output", _ports(card))
    if card.profiles:
        print_section(console, "Profiles, the first is the default", _profiles(card.profiles))
    print_section(console, "Validation", _validation(card))
    print_section(console, "Source", _origin(card))
    print_section(console, "Files", _files(card), Text(_verdict(card)))
    print_section(console, f"Here: {one_line(card.machine.cpu)}, {_count(card.machine.cores, 'core')}", _machine(card))
    if list_tensors:
        print_section(open_console(stream, _WIDTH_OF_A_LIST), "Tensors", _tensors(card.tensors))


def card_rows(card: Card) -> list[tuple[str, list[Row]]]:
    """The sections of a card as names and texts, for what is no terminal; without its profiles and files."""
    layers = [("MoE layers", _layers(card, card.routing))] if card.routing else []
    size = [("files", str(len(card.files))), ("bytes", f"{card.bytes:,}")]
    return [
        ("Model", _model(card)),
        *layers,
        ("Input and output", _ports(card)),
        ("Validation", _validation(card)),
        ("Source", [*_origin(card), *size]),
    ]


def _model(card: Card) -> list[Row]:
    model, image = card.model, card.image
    ensemble = "" if card.ensemble_size == 1 else f", an ensemble of {card.ensemble_size} members (E3)"
    patch = "-" if model.patch_size is None else _by(*model.patch_size)
    flops = "-" if card.dense_flops_per_image is None else _short(card.dense_flops_per_image)
    rows = [
        ("kind", card.kind + ensemble),
        ("images", f"{_by(image.height, image.width)} px, {_count(image.channels, 'channel')}; patches of {patch}"),
        (
            "encoder",
            f"{_or_dash(model.num_layers)} blocks, width {_or_dash(model.hidden_size)}, {_or_dash(model.num_heads)} heads, "
            f"MLP {_or_dash(model.mlp_dim)}",
        ),
        ("classifier", one_line(model.classifier)),
        ("classes", _classes(card)),
        ("parameters", f"{card.parameters.all:,} in {_count(card.parameters.tensors, 'tensor')}"),
        ("per token", _per_token(card)),
        ("dense FLOPs", f"{flops} per image, of the dense model of this size"),
        ("precision", card.precision),
    ]
    if card.tensorrt:
        rows.append(("TensorRT", f"graphs in {card.tensorrt.precision}: {', '.join(card.tensorrt.graphs.values())}"))
    return rows


def _classes(card: Card) -> str:
    names = card.output.class_names
    count = _or_dash(card.model.num_classes if card.output.name == "features" else card.output.shape[-1])
    if names is None:
        return f"{count}, without names"
    return f"{count}: {', '.join(map(one_line, names[:3]))}{', ...' if len(names) > 3 else ''}"


def _per_token(card: Card) -> str:
    parameters, routing = card.parameters, card.routing
    if parameters.per_token is None:
        return "-"
    share = f"{parameters.per_token:,}, {parameters.per_token / max(parameters.all, 1):.1%} of them"
    if routing is None or parameters.k is None:
        return share
    return f"{share}: {parameters.k} of {_count(routing.num_experts, 'expert')} in each MoE layer"


def _layers(card: Card, routing: CardRouting) -> list[Row]:
    rows = [
        ("routing", routing.kind),
        ("blocks", f"{', '.join(layer.rpartition('_')[2] for layer in routing.layers)}"),
        ("experts", f"{routing.num_experts} in each, MLP {_or_dash(card.model.expert_mlp_dim)}"),
    ]
    if routing.slots_per_expert is not None:
        rows.append(("slots", f"{routing.slots_per_expert} per expert and group"))
    rows.append(("group", f"{routing.group}: {_count(routing.group_tokens, 'token')}"))
    if routing.rounding is not None:
        rows.append(("places", f"rounded with {routing.rounding} to multiples of {routing.capacity_multiple_of}"))
    rows.append(("bf16 dispatch", _yes(card.model.dispatch_bf16)))
    rows.append(("a call sets", ", ".join(routing.settings) or "nothing"))
    return rows


def _ports(card: Card) -> list[Row]:
    image, output = card.image, card.output
    shape = ",".join(map(str, ("N", image.height, image.width, image.channels)))
    values = "in [-1, 1]" if image.dtype == "float32" else "0 to 255"
    return [
        ("image", f"{image.dtype}[{shape}], {values}"),
        ("pictures", ", ".join(image.preprocessing)),
        ("batches", f"multiples of {_count(card.batch_multiple, 'image')}"),
        (output.name, f"float32[{','.join(map(str, ('N', *output.shape)))}]"),
    ]


def _profiles(profiles: Sequence[ProfileCard]) -> Table:
    table = plain_table()
    table.add_column("name", overflow="fold", min_width=8)
    cells: dict[str, Callable[[ProfileCard], str]] = {
        "asked\nratio": lambda profile: f"{profile.capacity_ratio:g}",
        "real\nratio": lambda profile: f"{profile.effective_ratio:.4g}",
        "k": lambda profile: _or_dash(profile.k),
        "order": lambda profile: "-" if profile.bpr is None else "BPR" if profile.bpr else "vanilla",
        "pool": lambda profile: _yes(profile.pool),
        "most\nexperts": lambda profile: _or_dash(profile.max_experts),
        "places": lambda profile: str(profile.capacity[0]),
        "FLOPs": lambda profile: "-" if profile.flops_per_image is None else _short(profile.flops_per_image),
        "of\ndense": lambda profile: _share(profile.of_dense),
    }
    for name in cells:
        table.add_column(name, justify="right", no_wrap=True)
    for profile in profiles:
        table.add_row(profile.name, *(cell(profile) for cell in cells.values()))
    return table


def _validation(card: Card) -> list[Row]:
    validation = card.validation
    if validation is None:
        return [("compared", "nothing: the bundle was not validated")]
    graphs = validation.graphs
    rows = [
        ("compared", f"{', '.join(map(one_line, graphs.graphs)) or '-'} with torch; {_extent(graphs)}"),
        ("largest", _measured(graphs.max_difference, validation.atol)),
        ("typical", _measured(graphs.relative_difference, validation.relative_limit)),
        *_agreement(graphs),
    ]
    for name, found in (("from float32", validation.from_fp32), ("TensorRT", validation.tensorrt)):
        if found is not None:
            largest, typical = _measured(found.max_difference), _measured(found.relative_difference)
            rows += [(name, f"largest {largest}, typical {typical}; {_extent(found)}"), *_agreement(found)]
    return rows


def _extent(found: Differences) -> str:
    profiles = [_count(len(found.profiles), "profile")] if found.profiles else []
    images = [] if found.images is None else [_count(found.images, "image")]
    return ", ".join(profiles + images) or "-"


def _measured(value: float | None, limit: float | None = None) -> str:
    most = "" if limit is None else f" (at most {limit:g})"
    return "-" if value is None else f"{value:.1e}{most}"


def _agreement(found: Differences) -> list[Row]:
    return [] if found.agreement is None else [("  pairs alike", f"{found.agreement:.2%}")]


def _origin(card: Card) -> list[Row]:
    origin = card.origin
    return [
        ("checkpoint", f"{one_line(origin.name)} ({one_line(origin.format)})"),
        ("SHA-256", _start(origin.sha256)),
        ("exported by", f"{one_line(origin.producer)} {one_line(origin.producer_version)}"),
        ("format", f"version {card.format_version}"),
    ]


def _files(card: Card) -> Table:
    table = plain_table()
    table.add_column("name", overflow="fold")
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("SHA-256", no_wrap=True)
    for file in card.files:
        table.add_row(file.name, f"{file.bytes:,}", _start(file.sha256))
    return table


def _verdict(card: Card) -> str:
    size = f"together {card.bytes:,} bytes"
    if card.verified:
        return f"{size}; all {len(card.files)} files are what the manifest says"
    return f"{size}; not verified, which --verify does"


def _machine(card: Card) -> list[Row]:
    library = card.machine.op_library
    rows = [("op library", f"yes, {library.cpu_path}" if library.reason is None else f"no: {one_line(library.reason)}")]
    for backend in card.machine.backends:
        auto = " (auto)" if backend.auto else ""
        said = f"yes{auto}, {one_line(backend.description)}" if backend.runs else f"no: {one_line(backend.reason)}"
        rows.append((backend.name, said))
    return rows


def _tensors(tensors: Sequence[ListedTensor]) -> Table:
    table = plain_table()
    table.add_column("name", overflow="fold")
    table.add_column("type", no_wrap=True)
    table.add_column("shape", justify="right", overflow="fold")
    table.add_column("bytes", justify="right", no_wrap=True)
    for tensor in tensors:
        table.add_row(printable(tensor.name), tensor.dtype, f"[{','.join(map(str, tensor.shape))}]", f"{tensor.bytes:,}")
    return table


def _start(digest: str | None) -> str:
    return "-" if digest is None else printable(digest[:_DIGITS_OF_A_HASH])


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)


def _yes(flag: bool | None) -> str:
    return "-" if flag is None else "yes" if flag else "no"


def _share(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0%}" if value < 100 else "> 9999%"


def _by(height: int, width: int) -> str:
    return f"{height} x {width}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _short(number: int) -> str:
    for power, unit in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{number / 10**power:.3g} {unit}"
    return str(number)
