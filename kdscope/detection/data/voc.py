"""PASCAL VOC (Everingham et al., IJCV 2010): one XML file for each image, converted to COCO JSON once.

What VOC calls difficult is neither learned nor scored. AP is COCO's, not that of VOC's own tools (11 points in 2007).
"""

import math
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from kdscope.data.catalogue import Request
from kdscope.data.listing import data_folder, images_in
from kdscope.detection.data.catalogue import DETECTION_DATASETS
from kdscope.detection.data.coco import from_coco
from kdscope.detection.data.conversion import Found, Scene, converted
from kdscope.detection.data.record import DetectionDataset
from kdscope.errors import KDScopeError
from kdscope.files import read_json

FOLDERS = ("Annotations", "ImageSets/Main", "JPEGImages")


@DETECTION_DATASETS.register("voc")
def voc(request: Request) -> DetectionDataset:
    """`voc:DIR`: DIR has Annotations/, ImageSets/Main/ and JPEGImages/, such as VOCdevkit/VOC2007.

    trainval.txt and test.txt where both are there and the test images have annotations (2007), else train.txt and
    val.txt (2012). Classes are those of the training images, sorted.
    """
    root = data_folder(request, ", ".join(FOLDERS))
    for folder in FOLDERS:
        if not (root / folder).is_dir():
            inner = sorted(path.parent.name for path in root.glob("*/Annotations"))
            hint = f"; did you mean {root / inner[0]}?" if inner else ""
            raise KDScopeError(f"{root} has no folder {folder}; voc:DIR needs {', '.join(FOLDERS)}{hint}")
    files = {Path(name).stem: name for name in images_in(root / "JPEGImages")}
    names = {name: _names(root, name) for name in ("trainval", "test", "train", "val")}
    labelled = bool(names["test"]) and (root / "Annotations" / f"{names['test'][0]}.xml").is_file()
    pair = ("trainval", "test") if names["trainval"] and labelled else ("train", "val")
    sources, classes = [], None
    for part in pair:
        if not names[part]:
            raise KDScopeError(f"{root / 'ImageSets/Main' / part}.txt is missing or names no image")
        annotations = [_annotation(root, part, name) for name in names[part]]
        source = converted(
            request, f"{part}.coco", root / "JPEGImages", annotations, partial(read_xml, files=files), classes
        )
        sources.append(source)
        classes = classes or [category["name"] for category in read_json(source.annotations)["categories"]]
    return from_coco(request, *sources)


def read_xml(path: Path, files: dict[str, str]) -> Scene:
    """What an XML file says of its image.

    VOC counts pixels from 1 and its xmax and ymax are inside, so (xmin - 1, ymin - 1, xmax, ymax) are the edges.

    Args:
        path: of the XML.
        files: name of the image for each stem.

    Raises:
        KDScopeError: what is not XML, or not VOC's, or whose image is missing.
    """
    if path.stem not in files:
        raise KDScopeError(f"{path} has no image {path.stem}.jpg in JPEGImages")
    try:
        tree = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise KDScopeError(f"{path} is not XML: {error}") from None
    width, height = (_number(path, tree, f"size/{side}", "the image") for side in ("width", "height"))
    if min(width, height) < 1:
        raise KDScopeError(f"{path}: the image is {width:g} x {height:g} pixels")
    objects = []
    for number, node in enumerate(tree.findall("object"), 1):
        what = f"object {number}"
        x1, y1, x2, y2 = (_number(path, node, f"bndbox/{side}", what) for side in ("xmin", "ymin", "xmax", "ymax"))
        name = (node.findtext("name") or "").strip()
        if not name:
            raise KDScopeError(f"{path}: {what} has no name")
        difficult = (node.findtext("difficult") or "0").strip() == "1"
        objects.append(Found((x1 - 1, y1 - 1, x2, y2), name, difficult))
    return Scene(files[path.stem], (int(width), int(height)), objects)


def _number(path: Path, node: ElementTree.Element, field: str, what: str) -> float:
    text = node.findtext(field)
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise KDScopeError(f"{path}: {what} has {field} {text!r}, not a number")
    return value


def _names(root: Path, part: str) -> list[str]:
    path = root / "ImageSets" / "Main" / f"{part}.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [line.split()[0] for line in lines if line.strip()]


def _annotation(root: Path, part: str, name: str) -> Path:
    path = root / "Annotations" / f"{name}.xml"
    if not path.is_file():
        raise KDScopeError(f"{root / 'ImageSets/Main' / part}.txt names {name}, and {path} is missing")
    return path
