"""Check that a mistake on a command line gives a one-line error and leaves no files behind.

The exit code is 2 for wrong usage, and 1 for any other error.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_runs import QUICK, Vmoe, kept_bundle
from PIL import Image

pytestmark = pytest.mark.fast

# In these commands, the tests replace words in capitals by the paths in `paths`.
RUN = [
    ("run", 2, "Missing argument 'BUNDLE'"),
    ("run x.vmoe", 2, "Missing argument 'IMAGE|DIR...'"),
    ("run x.vmoe y.png --top 0", 2, "--top"),
    ("run x.vmoe y.png --backend abacus", 2, "'abacus' is not one of"),
    ("run ALONE y.png --profile fast", 2, "there is no profile 'fast'"),
    ("run ALONE y.png --k 9", 2, "k must be between 1"),
    ("run ALONE y.png --capacity -0.5", 2, "positive number, not -0.5"),
    ("run ALONE EMPTY", 1, "has no pictures"),
    ("run absent.vmoe y.png", 1, "absent.vmoe is not a bundle"),
    ("run NPZ y.png", 1, "is not a bundle: it is a file"),
    ("run EMPTY y.png", 1, " is not a bundle: manifest.json"),
    ("run OFFICIAL y.png", 1, "; if it is a model, vmoe export "),
    ("run MODEL y.png", 1, "; if it is a model, vmoe export "),
    ("rnu ALONE y.png", 2, "No such command 'rnu'. Did you mean 'run'? vmoe --help"),
    ("serve bacth ALONE x y", 2, "No such command 'bacth'. Did you mean 'batch'? vmoe serve --help"),
    ("sing ALONE y.png", 2, "No such command 'sing'; vmoe --help"),
    ("run ALONE y.png --capacity 0.5 --capacity 0.7", 2, "vmoe run takes one --capacity; vmoe bench"),
    ("run ALONE y.png --profile c1-k1 --profile c1-k2", 2, "vmoe run takes one --profile; vmoe bench"),
    ("run ALONE y.png --bpr --no-bpr", 2, "vmoe run takes one --bpr/--no-bpr; vmoe bench"),
    ("run absent.vmoe y.png --json nowhere/x.json", 2, "there is no folder nowhere"),
    ("run absent.vmoe y.png -o x.txt", 2, "x.txt must end in .npz, .csv, .parquet"),
    ("run absent.vmoe y.png -o nowhere/x.csv", 2, "there is no folder nowhere"),
    ("run absent.vmoe y.png -o x.csv --json x.csv", 2, "is used by this command"),
    ("run DENSE PICTURE", 1, "vmoe run -o FILE.npz writes them, and services return them at /v1/features"),
    ("run ENSEMBLE PICTURE -o x.csv", 1, "returns each member's logits; vmoe_runtime.Engine returns them"),
]
EXPORT = [
    (
        "export DENSE --probabilities sigmoid -o x.vmoe",
        2,
        "--probabilities applies to logits, and this bundle would return",
    ),
    ("export DENSE --probabilities odds -o x.vmoe", 2, "'odds' is not one of 'softmax', 'sigmoid'"),
    ("export google/vit -o x.vmoe", 1, "google/vit.index is there; hf://google/vit is the model of that name on"),
    ("zeroshot EMPTY -o x.vmoe", 2, "Missing option '--class-names'"),
    ("zeroshot EMPTY -o x.vmoe --class-names absent.txt", 2, "absent.txt can't be read"),
    ("zeroshot EMPTY -o x.vmoe --class-names cifar100 --templates mine", 2, "'mine' is not 'openai'"),
    ("zeroshot EMPTY -o x.vmoe --class-names cifar100 --template cat", 2, "--template 'cat' must have one {}"),
    ("zeroshot EMPTY -o x.vmoe --class-names cifar100", 1, "has no config.json or open_clip_config.json"),
    ("zeroshot DENSE -o x.vmoe --class-names cifar100", 1, "has no config.json or open_clip_config.json"),
]
BENCH = [
    ("bench", 2, "Missing argument 'BUNDLE...'"),
    ("bench x.vmoe --duration 0", 2, "--duration"),
    ("bench x.vmoe --duration nan", 2, "--duration"),
    ("bench x.vmoe --threads 0", 2, "--threads"),
    ("bench x.vmoe --concurrency 0", 2, "--concurrency"),
    (f"bench x.vmoe --batch-size {'9' * 4000}", 2, "--batch-size"),
    ("bench x.vmoe --backend abacus", 2, "'abacus' is not one of"),
    ("bench x.vmoe --profile", 2, "requires an argument"),
    ("bench x.vmoe --speed", 2, "No such option"),
    ("bench GROUPED --batch-size 24", 2, "--batch-size 24 doesn't fit: the bundle routes in groups (16)"),
    ("bench GROUPED --profile fast", 2, "there is no profile 'fast'"),
    ("bench GROUPED --profile c0.3-k9", 2, "k must be between 1 and the number of experts"),
    ("bench GROUPED --min-agreement 99%", 2, "--min-agreement chooses among several bundles"),
    ("bench DENSE --profile c0.3-k1", 2, "has nothing to set"),
    ("bench DENSE --merge 8", 2, "tokens can't be merged"),
    ("bench DENSE --sweep 0.1:2.0", 2, "has no capacity, k or order to choose"),
    ("bench SOFT --sweep 0.1:2.0", 2, "has no capacity, k or order to choose"),
    ("bench ALONE --sweep 0.1:2.0 --profile c0.3-k1 --profile c0.3-k2", 2, "a sweep starts from one profile"),
    ("bench ALONE --capacity 0.5 --k 9", 2, "k must be between 1 and"),
    ("bench ALONE --capacity 9", 2, "the capacity ratio 9 is larger"),
    ("bench ALONE --capacity 30%", 2, "'30%' is not a number such as 0.3; vmoe bench --help"),
    ("bench ALONE --k 2.5", 2, "'2.5' is not a whole number; vmoe bench --help"),
    ("bench ALONE --sweep 0.1:20", 2, "the capacity ratio 20 is larger"),
    ("bench ALONE --capacity nan", 2, "capacity ratio"),
    ("bench ALONE --max-experts 0", 2, "max_experts"),
    ("bench ALONE --max-drop-in-accuracy 0.1", 2, "needs images with labels"),
    ("bench ALONE --max-drop-in-accuracy 0.5 --images EIGHT", 2, "0.5% or 0.5 of everything? Write 0.5%, or 50%"),
    ("bench ALONE --max-drop-in-accuracy 2 --images EIGHT", 2, "2% or 2 of everything? Write 2%"),
    ("bench ALONE --max-drop-in-accuracy 100% --images EIGHT", 2, "100.0 is not in the range 0<=x<100"),
    ("bench ALONE --max-drop-in-accuracy nan --images EIGHT", 2, "not a finite number"),
    ("bench ALONE --target-latency 0 --images EIGHT", 2, "--target-latency"),
    ("bench ALONE --add-profile", 2, "--add-profile writes a recommended setting"),
    ("bench ALONE --merge 8 --add-profile --target-latency 9 --images EIGHT", 2, "such as c0.3-k1-r8, to"),
    ("bench ALONE --cascade", 2, "; add --images NPZ|DIR"),
    ("bench ALONE --cascade --batch-size 8 --images EIGHT", 2, "fewer than two batches"),
    ("bench ALONE --target-latency 9 --images PLAIN", 2, "a recommendation needs labels"),
    ("bench ALONE --target-latency 0.000001 --images EIGHT", 1, "no setting takes 1e-06 ms or less"),
    ("bench ALONE --labels EIGHT", 2, "; add --images NPZ|DIR"),
    ("bench ALONE --labels EIGHT --images EIGHT", 1, "is none"),
    ("bench ALONE --plot x.doc", 2, "must end in"),
    ("bench ALONE --csv no/such/folder.csv", 2, "there is no folder"),
    ("bench ALONE --compare nothing.vmoe", 1, "no folder of that name"),
    ("bench ALONE --tune --images NPZ", 2, "--max-drop-in-accuracy 0.5%"),
    ("bench ALONE --tune --max-drop-in-accuracy 1%", 2, "--tune chooses a setting on images; add --images"),
    (
        "bench ALONE --tune --max-drop-in-accuracy 1% --images EIGHT", 2,
        "598 or more can show that at most 1 % of the answers are lost, and --images has 8",
    ),
    (
        "bench ALONE --tune --max-drop-in-accuracy 1% --images NPZ --sweep 0.1:1", 2,
        "--tune chooses the settings of one bundle itself",
    ),
    (
        "bench ALONE --tune --max-drop-in-accuracy 1% --images NPZ --compare x.vmoe", 2,
        "--tune measures one bundle alone",
    ),
]  # fmt: skip
INSPECT = [
    ("inspect GROUPED --labels NPZ", 2, "need --images NPZ|DIR"),
    ("inspect GROUPED --out x", 2, "need --images NPZ|DIR"),
    ("inspect GROUPED --profile c0.3-k1", 2, "need --images NPZ|DIR"),
    ("inspect GROUPED --capacity 0.3", 2, "need --images NPZ|DIR"),
    ("inspect GROUPED --threads 1", 2, "need --images NPZ|DIR"),
    ("inspect GROUPED --images NPZ --list-tensors", 2, "--list-tensors belongs to the description"),
    ("inspect GROUPED --images NPZ --profile c9-k1", 2, "the capacity ratio 9 is larger"),
    ("inspect GROUPED --images NPZ --k 9", 2, "k must be between 1"),
    ("inspect GROUPED --images NPZ --compare SOFT", 2, "is another model than"),
    ("inspect GROUPED --images NPZ --compare nothing.vmoe", 1, "no folder of that name"),
    ("inspect GROUPED --images NPZ --labels NPZ", 1, "is none"),
    ("inspect GROUPED --images EMPTY", 1, "has no pictures"),
    ("inspect GROUPED --images CORRUPT", 1, "seven.png"),
    ("inspect GROUPED --images EIGHT", 1, "a group needs 16 images, but there are only 8"),
    ("inspect GROUPED --images NPZ --out NPZ", 2, "exists and is not a folder"),
    ("inspect GROUPED --images NPZ --out no/such/folder", 2, "there is no folder"),
    ("inspect GROUPED --images NPZ --out INSIDE", 2, "is inside an input of this command"),
    ("inspect GROUPED --images NPZ --out LOOP", 2, "exists and is not a folder"),
    ("inspect GROUPED --images NPZ --json NPZ", 2, "is used by this command"),
    ("inspect GROUPED PICTURE", 2, "1 image doesn't fit: the bundle routes in groups (16)"),
    ("inspect ALONE nothing.png", 1, "nothing.png"),
    ("inspect ALONE PICTURE --images PICTURE", 2, "PICTURE goes only with settings"),
    ("inspect ALONE PICTURE --profile c9-k1", 2, "the capacity ratio 9 is larger"),
    ("inspect ALONE PICTURE -o folder", 2, "--out: folder must end in .pdf, .png or .svg"),
    ("inspect ALONE PICTURE -o PICTURE", 2, "is used by this command"),
    ("inspect DENSE PICTURE", 1, "which have no classes"),
    ("inspect ALONE --profile c1-k1 --profile c1-k2", 2, "several --profile need a PICTURE"),
]
REPORT = [
    ("report ENSEMBLE --images NPZ -o OUT --merge 0 --merge 8", 2, "tokens can't be merged in an ensemble"),
    ("report ENSEMBLE --images NPZ -o OUT --pool", 2, "ensembles (E3) have no pool"),
    ("report ALONE -o OUT", 2, "Missing option '--images'"),
    ("report ALONE --images NPZ", 2, "Missing option '-o'"),
    ("report ALONE --images NPZ -o r.pdf", 2, "must end in .html"),
    ("report ALONE --images NPZ -o OUT --json OUT", 2, "--out and --json are both"),
    ("report ALONE --images NPZ -o no/such/r.html", 2, "there is no folder no/such"),
    ("report ALONE --images NPZ -o OUT --profile odd", 2, "there is no profile 'odd'"),
    ("report ALONE --images NPZ -o OUT --capacity 9", 2, "the capacity ratio 9 is larger"),
    ("report ALONE --images NPZ -o OUT --samples 0", 2, "--samples"),
    ("report ALONE --images CORRUPT -o OUT", 1, "seven.png"),
    ("report ALONE --images NPZ -o OUT --batch-size 256", 1, "a batch needs 256 images"),
    ("report ALONE --compare DENSE --images NPZ -o OUT", 1, "v3-dense: images have shape"),
    ("report DENSE --images NPZ -o OUT", 2, "the bundle is a dense ViT, which has none"),
    ("report SOFT --images NPZ -o OUT", 2, "the bundle is a Soft MoE, which has none"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, mnist_images: dict[str, np.ndarray]) -> Path:
    """Make the folder that the commands read. At the end, check that no command has changed it."""
    folder = tmp_path_factory.mktemp("mistakes")
    images, labels = mnist_images["images"][:8], mnist_images["labels"][:8]
    np.savez(folder / "EIGHT.npz", images=images, labels=labels)
    np.savez(folder / "PLAIN.npz", images=images)
    Image.fromarray(images[0]).save(folder / "PICTURE.png")
    for name in ("EMPTY", "CORRUPT", "MODEL"):
        (folder / name).mkdir()
    (folder / "MODEL" / "config.json").write_text('{"model_type": "vit"}')
    (folder / "MODEL" / "model.safetensors").write_bytes(b"")
    for index in range(16):
        (folder / "CORRUPT" / f"{index}-seven.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    (folder / "LOOP").symlink_to(folder / "LOOP")
    (folder / "OUT.html").write_text("before")
    return folder


@pytest.mark.parametrize(
    ("command", "code", "says"), [*RUN, *EXPORT, *BENCH, *INSPECT, *REPORT], ids=lambda value: str(value)[:60]
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    command: str,
    code: int,
    says: str,
    folder: Path,
    mnist_bundle: Path,
    mnist_image_bundle: Path,
    mnist_checkpoint: Path,
    mnist_digits: Path,
    vmoe: Vmoe,
) -> None:
    paths = {path.stem: path for path in folder.iterdir()} | {"NPZ": mnist_digits, "INSIDE": mnist_bundle / "pictures"}
    paths |= {"ALONE": mnist_image_bundle, "GROUPED": mnist_bundle, "OFFICIAL": mnist_checkpoint}
    paths |= {"DENSE": kept_bundle("dense"), "SOFT": kept_bundle("soft"), "ENSEMBLE": kept_bundle("ensemble")}
    name, *words = command.split()
    before = sorted(folder.rglob("*"))
    quick = ("-q", *QUICK) if name in ("bench", "report") and "x.vmoe" not in words else ()
    assert says in vmoe.complaint(code, name, *quick, *(paths.get(word, word) for word in words))
    assert sorted(folder.rglob("*")) == before and (folder / "OUT.html").read_text() == "before"
    assert not paths["INSIDE"].exists()
