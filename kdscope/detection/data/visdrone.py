"""VisDrone-DET (Zhu et al., TPAMI 2021): one text file of comma-separated rows for each image, converted once.

A row is left, top, width, height, score, category, truncation, occlusion. Score 0 says that the object is not scored;
category 0 is a region in which nothing was labelled, and 11 (others) is a vehicle of no class: what a detector finds
there is no error of any class, so each is an ignored region of all ten.
"""

from pathlib import Path

from kdscope.data.catalogue import Request
from kdscope.data.decoding import image_size
from kdscope.data.listing import data_folder, images_in
from kdscope.detection.data.catalogue import DETECTION_DATASETS
from kdscope.detection.data.coco import Source, from_coco
from kdscope.detection.data.conversion import Found, Scene, converted
from kdscope.detection.data.record import DetectionDataset
from kdscope.errors import KDScopeError

CLASSES = (
    "pedestrian",
    "people",
    "bicycle",
    "car",
    "van",
    "truck",
    "tricycle",
    "awning-tricycle",
    "bus",
    "motor",
)
REGION, OTHERS = 0, 11
COLUMNS = "left,top,width,height,score,category,truncation,occlusion"


@DETECTION_DATASETS.register("visdrone")
def visdrone(request: Request) -> DetectionDataset:
    """`visdrone:DIR`: DIR has VisDrone2019-DET-train/ and VisDrone2019-DET-val/ (or any one folder whose name ends so).

    Each has images/ and annotations/. The split `test` is val, on which results are usually given; test-dev if there is
    no val.
    """
    root = data_folder(request, "VisDrone2019-DET-train/ and VisDrone2019-DET-val/")
    train, test = _part(root, ("train",)), _part(root, ("val", "test-dev", "test"))
    return from_coco(request, *(_source(request, part) for part in (train, test)))


def read_rows(path: Path, image: Path) -> Scene:
    """What a text file says of its image.

    Raises:
        KDScopeError: a row that has not eight numbers (a comma at its end is no ninth), or no known category.
    """
    height, width = image_size(str(image))
    objects = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        words = line.strip().rstrip(",").split(",")
        try:
            left, top, wide, high, score, category, _, _ = map(int, words)
        except ValueError:
            raise KDScopeError(f"{path}, line {number}: {line.strip()!r} is not {COLUMNS}") from None
        if not REGION <= category <= OTHERS:
            raise KDScopeError(f"{path}, line {number}: category {category} is not 0 to 11")
        names = CLASSES if category in (REGION, OTHERS) else CLASSES[category - 1 : category]
        ignored = score == 0 or len(names) > 1
        objects += [Found((left, top, left + wide, top + high), name, ignored) for name in names]
    return Scene(image.name, (width, height), objects)


def _part(root: Path, endings: tuple[str, ...]) -> Path:
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    for ending in endings:
        found = [path for path in folders if path.name == ending or path.name.endswith(f"-{ending}")]
        if len(found) > 1:
            raise KDScopeError(f"{root} has {found[0].name} and {found[1].name}; keep one folder of {ending}")
        if found:
            return found[0]
    there = ", ".join(path.name for path in folders[:5]) or "no folders"
    raise KDScopeError(f"{root} has no folder VisDrone2019-DET-{endings[0]}; there: {there}")


def _source(request: Request, part: Path) -> Source:
    for folder in ("images", "annotations"):
        if not (part / folder).is_dir():
            raise KDScopeError(f"{part} has no folder {folder}; it needs images/ and annotations/")
    images = {Path(name).stem: name for name in images_in(part / "images")}
    if not images:
        raise KDScopeError(f"{part / 'images'} has no images")
    sources = [part / "annotations" / f"{stem}.txt" for stem in images]
    missing = next((path for path in sources if not path.is_file()), None)
    if missing is not None:
        raise KDScopeError(f"{missing} is missing, and {part / 'images' / images[missing.stem]} is there")

    def read(path: Path) -> Scene:
        return read_rows(path, part / "images" / images[path.stem])

    return converted(request, f"{part.name}.coco", part / "images", sources, read, CLASSES)
