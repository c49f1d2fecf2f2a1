"""Which files are the images of a split, and of which class each is: from class folders, or as a list says."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdscope.data.catalogue import Request
from kdscope.errors import KDScopeError, nearest

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class Listing:
    """The images of one split: the classes; each image's path below `root`, and class."""

    root: Path
    classes: tuple[str, ...]
    files: tuple[str, ...]
    labels: tuple[int, ...]

    def stamps(self) -> list[tuple[int, int]]:
        """(size, time of change) of each file: what tells that one was replaced."""
        found = (os.stat(f"{self.root}/{file}") for file in self.files)
        return [(about.st_size, about.st_mtime_ns) for about in found]


def data_folder(request: Request, holds: str) -> Path:
    """The folder that stands behind the colon of the dataset's name; `holds` says what it should have.

    Raises:
        KDScopeError: no path, or no such folder, with the nearest that is there.
    """
    kind = request.name.partition(":")[0]
    if not request.argument:
        raise KDScopeError(f"dataset {kind!r} needs a path; write {kind}:PATH, where PATH has {holds}")
    root = Path(request.argument).expanduser().resolve()
    if not root.is_dir():
        beside = [entry.name for entry in root.parent.iterdir() if entry.is_dir()] if root.parent.is_dir() else []
        hint = f"; beside it: {', '.join(nearest(root.name, beside))}" if beside else ""
        raise KDScopeError(f"{root} is not a folder; {kind}:PATH needs one that has {holds}{hint}")
    return root


def list_classes(root: Path, layout: str, inner: str = "") -> Listing:
    """The images below root/CLASS/, classes and names in sorted order.

    Args:
        root: of the class folders.
        layout: where the images should be, for the message.
        inner: a folder inside each class folder that holds its images, where it is there.

    Raises:
        KDScopeError: a folder that is missing or has no class folders, a class without images.
    """
    if not root.is_dir():
        raise KDScopeError(f"{root} is missing; {layout}")
    with os.scandir(root) as entries:
        classes = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        loose = next(iter(images_in(root)), None)
        found = f"only images such as {loose}" if loose else "no class folders"
        raise KDScopeError(f"{root} has {found}; put the images of each class into a folder of its own")
    files, labels = [], []
    for label, name in enumerate(classes):
        place = f"{name}/{inner}" if inner and (root / name / inner).is_dir() else name
        found = images_in(root / place)
        if not found:
            raise KDScopeError(f"{root / place} has no images ({', '.join(sorted(SUFFIXES))})")
        files += [f"{place}/{file}" for file in found]
        labels += [label] * len(found)
    return Listing(root, tuple(classes), tuple(files), tuple(labels))


def images_in(folder: Path) -> list[str]:
    """The names of the images in a folder, sorted."""
    with os.scandir(folder) as entries:
        names = (entry.name for entry in entries)
        return sorted(n for n in names if os.path.splitext(n)[1].lower() in SUFFIXES and not n.startswith("."))


def same_classes(root: Path, train: Listing, test: Listing) -> None:
    """Raise unless both parts have the same classes."""
    differing = sorted(set(train.classes) ^ set(test.classes))
    if differing:
        raise KDScopeError(
            f"{root}: {train.root.name}/ and {test.root.name}/ differ in classes: {', '.join(differing[:5])}"
        )


def all_there(root: Path, files: Sequence[str], said: Iterable[str]) -> None:
    """Raise unless each of `files` is below `root`; `said` says where each was named.

    Each folder is read once: for a million files that is a thousand times less than asking for each.
    """
    folders: dict[str, set[str]] = {}
    for file, where in zip(files, said, strict=True):
        folder, _, name = file.rpartition("/")
        if folder not in folders:
            place = root / folder
            folders[folder] = set(os.listdir(place)) if place.is_dir() else set()
        if name not in folders[folder]:
            known = folders[folder]
            hint = f"nearest there: {', '.join(nearest(name, known))}" if known else f"{root / folder} has no files"
            raise KDScopeError(f"{where} names {file}, which is not in {root}; {hint}")
