"""Tiny ImageNet: 100,000 training and 10,000 validation images of 64 px, 200 classes of ImageNet.

Y. Le & X. Yang, "Tiny ImageNet visual recognition challenge", CS 231N, Stanford, 2015.
"""

from pathlib import Path

from kdscope.data.catalogue import DATASETS, Request
from kdscope.data.folder import decoded
from kdscope.data.listing import Listing, all_there, data_folder, list_classes, same_classes
from kdscope.data.split import Dataset
from kdscope.errors import KDScopeError, unknown

ANNOTATIONS = "val_annotations.txt"
LAYOUT = "tiny-imagenet:PATH needs PATH/train/CLASS/images/ and PATH/val/ as the archive tiny-imagenet-200 has them"


@DATASETS.register("tiny-imagenet")
def tiny_imagenet(request: Request) -> Dataset:
    """`tiny-imagenet:PATH`: the unpacked archive; its val/ is the test part, since no labels of its test/ are public.

    Decoded once, as `folder:PATH` is (1.4 GB). Classes are WordNet ids, sorted. A val/ that was sorted into class
    folders is taken as well.
    """
    root = data_folder(request, "the train/ and val/ of tiny-imagenet-200")
    train = list_classes(root / "train", LAYOUT, "images")
    if (root / "val" / ANNOTATIONS).is_file():
        test = annotated(root / "val", train.classes)
    else:
        test = list_classes(root / "val", LAYOUT, "images")
        same_classes(root, train, test)
    return decoded({"train": train, "test": test}, request)


def annotated(folder: Path, classes: tuple[str, ...]) -> Listing:
    """The images of `folder`/images that val_annotations.txt labels: lines of file, class and box, with tabs between.

    Raises:
        KDScopeError: a line that is none, a class that train has not, an image that is not there; by line.
    """
    position = {name: label for label, name in enumerate(classes)}
    path = folder / ANNOTATIONS
    files, labels, said = [], [], []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="surrogateescape").splitlines(), start=1):
        name, _, rest = line.partition("\t")
        if not rest:
            raise KDScopeError(f"{path}, line {number} is not FILE, tab, CLASS: {line[:60]!r}")
        label = rest.split("\t")[0]
        if label not in position:
            raise unknown("class", label, classes, where=f"{path}, line {number}")
        files.append(name)
        labels.append(position[label])
        said.append(f"{path}, line {number}")
    if not files:
        raise KDScopeError(f"{path} is empty; it labels the images of {folder / 'images'}")
    all_there(folder / "images", files, said)
    return Listing(folder / "images", classes, tuple(files), tuple(labels))
