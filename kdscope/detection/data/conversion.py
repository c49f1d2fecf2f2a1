"""Annotations of other layouts, converted once to COCO JSON that any other tool reads too.

The JSON says what it was made from (names, sizes and times of change of the files), so one whose source has changed is
made again. It lies beside what it was made from, or where that cannot be written, or the name is taken by a file of the
user's own, in the cache.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from kdscope.data.catalogue import Request, home
from kdscope.detection.data.coco import Source
from kdscope.errors import KDScopeError
from kdscope.files import digest, read_json, write_json
from kdscope.progress import bar

LAYOUT = 1  # of the conversion; part of what tells whether it is to be made again


class Found(NamedTuple):
    """An object in a file of annotations: (x1, y1, x2, y2) in pixels, its class, whether it is not to be scored."""

    box: tuple[float, float, float, float]
    category: str
    crowd: bool


class Scene(NamedTuple):
    """An image: its file below the folder of images, (width, height), and what is in it."""

    file: str
    size: tuple[int, int]
    objects: Sequence[Found]


def converted(
    request: Request,
    name: str,
    images: Path,
    sources: Sequence[Path],
    read: Callable[[Path], Scene],
    classes: Sequence[str] | None,
) -> Source:
    """The COCO JSON of one split, made now if it is not there or its sources have changed.

    Args:
        request: whose `cache_dir` says where it goes; without one it goes beside the dataset's own folders, or else
            below KDSCOPE_CACHE (~/.cache/kdscope).
        name: of the file, without its suffix.
        images: the folder that the images are below.
        sources: the files of annotations, one for each image.
        read: one of them.
        classes: in the order of their category ids from 1; None: all that occur, sorted.

    Raises:
        KDScopeError: as `read`, a class that is not one of `classes`, a folder that cannot be written.
    """
    root = Path(request.argument).expanduser().resolve()
    folders = [root, home("KDSCOPE_CACHE")] if request.cache_dir is None else [request.cache_dir]
    inside = f"detection/{digest({'root': str(root)})[:32]}"
    places = [(folder if folder == root else folder / inside) / f"{name}.json" for folder in folders]
    stats = [path.stat() for path in sources]
    stamps = [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in zip(sources, stats, strict=True)]
    made_from = digest({"layout": LAYOUT, "images": str(images), "sources": stamps, "classes": classes})
    for place in places:
        if _made_from(place) == made_from:
            return Source(place, images)
    with bar(f"converting {name}", len(sources), request.progress) as advance:
        scenes = []
        for path in sources:
            scenes.append(read(path))
            advance(1)
    if classes is None:
        classes = sorted({found.category for scene in scenes for found in scene.objects})
    info = {"description": f"{name}, converted by kdscope", "made_from": made_from}
    content, failed = {"info": info, **as_coco(scenes, classes, sources)}, None
    for place in places:
        if place.exists() and _made_from(place) is None:  # another's file of that name
            failed = KDScopeError(f"{place} is there, and was not made by kdscope")
            continue
        try:
            write_json(place, content)
            return Source(place, images)
        except KDScopeError as error:
            failed = error
    raise KDScopeError(f"{failed}; the converted annotations need a folder: set KDSCOPE_CACHE to one") from failed


def _made_from(place: Path) -> str | None:
    """What a conversion says it was made from; None of a file that is none, or is not there."""
    try:
        content = read_json(place)
    except KDScopeError:
        return None
    info = content.get("info") if isinstance(content, dict) else None
    made_from = info.get("made_from") if isinstance(info, dict) else None
    return made_from if isinstance(made_from, str) else None


def as_coco(scenes: Sequence[Scene], classes: Sequence[str], sources: Iterable[Path]) -> dict[str, list]:
    """The lists `images`, `annotations` and `categories` of a COCO file; images are numbered from 1.

    >>> scene = Scene("a.jpg", (20, 10), [Found((1.0, 2.0, 4.0, 6.0), "cat", False)])
    >>> as_coco([scene], ["cat"], ["a.xml"])["annotations"]  # doctest: +NORMALIZE_WHITESPACE
    [{'id': 1, 'image_id': 1, 'category_id': 1, 'bbox': [1.0, 2.0, 3.0, 4.0], 'area': 12.0, 'iscrowd': 0}]
    """
    numbers = {name: number for number, name in enumerate(classes, 1)}
    images, annotations = [], []
    for image_id, (scene, source) in enumerate(zip(scenes, sources, strict=True), 1):
        images.append({"id": image_id, "file_name": scene.file, "width": scene.size[0], "height": scene.size[1]})
        for found in scene.objects:
            if found.category not in numbers:
                raise KDScopeError(f"{source} has the class {found.category!r}; known: {', '.join(classes)}")
            x1, y1, x2, y2 = found.box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": numbers[found.category],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": max(x2 - x1, 0) * max(y2 - y1, 0),
                    "iscrowd": int(found.crowd),
                }
            )
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    return {"images": images, "annotations": annotations, "categories": categories}
