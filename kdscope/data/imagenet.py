"""ImageNet (Russakovsky et al., IJCV 2015) and ImageNet-LT (Liu et al., CVPR 2019): files that workers decode.

Nothing is decoded beforehand (193 GB at 224 px). Images are 224 px unless `image_size` says otherwise: of train, the
short side is scaled to that and the centre is cut out; of the others, which are evaluated on, the short side is scaled
to 8/7 of it (256 for 224), as published accuracies are measured. Random crops of training views are cut from the scaled
image. The mean and standard deviation are those that published networks are trained with.
"""

from pathlib import Path

import torch

from kdscope.data.catalogue import DATASETS, Request
from kdscope.data.image_files import ImageFiles
from kdscope.data.listing import Listing, all_there, data_folder, list_classes, same_classes
from kdscope.data.split import Dataset, Split
from kdscope.errors import KDScopeError, nearest, unknown

SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LAYOUT = "imagenet:PATH needs PATH/train/CLASS/ and PATH/val/CLASS/ with images"
DEEPER = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "imagenet", "ILSVRC2012", "images")  # where archives put them
LISTS = {"train": "ImageNet_LT_train.txt", "validation": "ImageNet_LT_val.txt", "test": "ImageNet_LT_test.txt"}


@DATASETS.register("imagenet")
def imagenet(request: Request) -> Dataset:
    """`imagenet:PATH`: PATH/train/CLASS/ and PATH/val/CLASS/, the latter as the test part; decoded by workers.

    Classes are WordNet ids, sorted, which is the order of all published networks.
    """
    root = data_folder(request, "train/ and val/")
    _not_deeper(root, "imagenet")
    train, test = (list_classes(root / name, LAYOUT) for name in ("train", "val"))
    same_classes(root, train, test)
    return _dataset(request, {"train": train, "test": test})


@DATASETS.register("imagenet-lt")
def imagenet_lt(request: Request) -> Dataset:
    """`imagenet-lt:PATH`: PATH/train/ and PATH/val/ of ImageNet with the lists ImageNet_LT_train.txt and _test.txt.

    The lists lie in PATH or PATH/ImageNet_LT; their lines are FILE, space, LABEL, with FILE below PATH. Where there is
    an ImageNet_LT_val.txt (20 images of each class, cut from what is left of ImageNet's train), it is the validation
    split, unless a part of train is held out for that.
    """
    root = data_folder(request, "train/, val/ and the lists ImageNet_LT_train.txt and ImageNet_LT_test.txt")
    _not_deeper(root, "imagenet-lt")
    places = {name: _find_list(root, file) for name, file in LISTS.items()}
    for name in ("train", "test"):
        if places[name] is None:
            there = [path.name for path in root.glob("*.txt")]
            hint = f"; nearest there: {', '.join(nearest(LISTS[name], there))}" if there else ""
            raise KDScopeError(f"{root} has no {LISTS[name]}, nor has its folder ImageNet_LT{hint}")
    train = read_list(places["train"], root)
    others = {name: read_list(places[name], root, train.classes) for name in LISTS if name != "train" and places[name]}
    return _dataset(request, {"train": train, **others})


def read_list(path: Path, root: Path, classes: tuple[str, ...] | None = None) -> Listing:
    """The images that the lines of `path` name, each FILE, space, LABEL; the folder of a file is its class.

    Args:
        path: the list.
        root: that the files are below.
        classes: those of train, None where the list is of train.

    Raises:
        KDScopeError: a line that is none, an image that is not there, a class that train has not, a label that other
            lines give to another class, a label between them that no line has.
    """
    files, labels, said = [], [], []
    names: dict[int, str] = dict(enumerate(classes or ()))
    known = set(names.values())
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="surrogateescape").splitlines(), start=1):
        file, _, label = line.strip().rpartition(" ")
        where = f"{path}, line {number}"
        if not (label.isdecimal() and file.count("/")):
            raise KDScopeError(f"{where} is not FOLDER/CLASS/FILE, space, LABEL: {line[:60]!r}")
        name = file.rsplit("/", 2)[-2]
        if classes is not None and name not in known:
            raise unknown("class", name, classes, where=where)
        if names.setdefault(int(label), name) != name:
            raise KDScopeError(f"{where} gives label {int(label)} to {name}, which is that of {names[int(label)]}")
        files.append(file)
        labels.append(int(label))
        said.append(where)
    if not files:
        raise KDScopeError(f"{path} is empty")
    gap = next((label for label in range(len(names)) if label not in names), None)
    if gap is not None:
        raise KDScopeError(f"{path} has labels up to {max(names)} and no image of label {gap}")
    all_there(root, files, said)
    return Listing(root, tuple(names[label] for label in range(len(names))), tuple(files), tuple(labels))


def _dataset(request: Request, listings: dict[str, Listing]) -> Dataset:
    size = request.image_size or SIZE
    splits = {}
    for name, listing in listings.items():
        short = size if name == "train" else round(size * 256 / 224)
        images = ImageFiles(listing.root, listing.files, size, short)
        splits[name] = Split(name, images, torch.tensor(listing.labels))
    classes = listings["train"].classes
    return Dataset(request.name, splits["train"], splits["test"], splits.get("validation"), classes, MEAN, STD)


def _find_list(root: Path, name: str) -> Path | None:
    return next((folder / name for folder in (root, root / "ImageNet_LT") if (folder / name).is_file()), None)


def _not_deeper(root: Path, kind: str) -> None:
    """Raise where train/ is not in `root` and is in one of the folders that archives of ImageNet have."""
    if not (root / "train").is_dir():
        inner = next((root / name for name in DEEPER if (root / name / "train").is_dir()), None)
        if inner is not None:
            raise KDScopeError(f"{root} has no train/; it is in {inner}: write {kind}:{inner}")
