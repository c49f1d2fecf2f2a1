"""Images in class folders, decoded once: PATH/train/CLASS/*.jpg and PATH/test/CLASS/*.jpg (or val/ for test/).

The decoded images are kept as one memory-mapped uint8 file (.npy, so that other tools open it too) for each split,
under a key made of the path, the list of files (names, sizes, times of change) and the image size: a changed folder is
another key.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdscope.data.catalogue import DATASETS, Request, home
from kdscope.data.split import Dataset, Split, moments
from kdscope.errors import KDScopeError
from kdscope.files import digest, read_json, replacing, write_json
from kdscope.progress import bar

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
LAYOUT = 2  # of the cache; part of its key
CHUNK = 256  # images a worker decodes between two reports


@dataclass(frozen=True)
class Listing:
    """What one split's folder holds: the classes; each image's path, class, and (size, time of change)."""

    root: Path
    classes: tuple[str, ...]
    files: tuple[str, ...]
    labels: tuple[int, ...]
    stamps: tuple[tuple[int, int], ...]


@DATASETS.register("folder")
def folder(request: Request) -> Dataset:
    """`folder:PATH`: any images. Classes are the names of the folders, sorted, and must be the same in both splits.

    With `image_size`, each image is scaled (bicubic) so that its short side has that size, and its centre is cut out;
    without, all must have one size.
    """
    if not request.argument:
        raise KDScopeError("dataset 'folder' needs a path; write folder:PATH, where PATH has train/ and test/")
    root = Path(request.argument).expanduser().resolve()
    if not root.is_dir():
        raise KDScopeError(f"{root} is not a folder; folder:PATH needs one that has train/ and test/")
    test = next((root / name for name in ("test", "val") if (root / name).is_dir()), root / "test")
    listings = {"train": list_images(root / "train"), "test": list_images(test)}
    classes = listings["train"].classes
    differing = sorted(set(classes) ^ set(listings["test"].classes))
    if differing:
        raise KDScopeError(f"{root}: train/ and {test.name}/ differ in classes: {', '.join(differing[:5])}")
    key = digest(
        {
            "layout": LAYOUT,
            "size": request.image_size,
            "listings": [[str(listing.root), listing.files, listing.stamps] for listing in listings.values()],
        }
    )
    home_folder = request.cache_dir or home("KDSCOPE_CACHE")
    facts = prepare(home_folder / "folder" / key[:32], listings, request)
    splits = {}
    for name, listing in listings.items():
        # Mapped copy-on-write: torch wants memory that could be written, and the file stays as it is.
        images = torch.from_numpy(np.load(home_folder / "folder" / key[:32] / f"{name}.npy", mmap_mode="c"))
        splits[name] = Split(name, images, torch.tensor(listing.labels))
    mean, std = tuple(facts["mean"]), tuple(facts["std"])
    return Dataset(request.name, splits["train"], splits["test"], None, classes, mean, std)


def list_images(root: Path) -> Listing:
    """The images below root/CLASS/, classes and names in sorted order.

    Raises:
        KDScopeError: a folder that is missing or has no class folders, a class without images.
    """
    if not root.is_dir():
        raise KDScopeError(f"{root} is missing; folder:PATH needs PATH/train/CLASS/ and PATH/test/CLASS/ with images")
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise KDScopeError(f"{root} has no class folders; put the images of each class into a folder of its own")
    files, labels, stamps = [], [], []
    for label, name in enumerate(classes):
        found = sorted(
            (entry.name, entry.stat().st_size, entry.stat().st_mtime_ns)
            for entry in os.scandir(root / name)
            if os.path.splitext(entry.name)[1].lower() in SUFFIXES and not entry.name.startswith(".")
        )
        if not found:
            raise KDScopeError(f"{root / name} has no images ({', '.join(sorted(SUFFIXES))})")
        files += [f"{name}/{file}" for file, _, _ in found]
        stamps += [(size, time) for _, size, time in found]
        labels += [label] * len(found)
    return Listing(root, tuple(classes), tuple(files), tuple(labels), tuple(stamps))


def prepare(place: Path, listings: dict[str, Listing], request: Request) -> dict[str, Any]:
    """Decode into the folder `place` what is not there yet, and return its facts (mean, std, source).

    Only one process decodes; others wait. `facts.json` is written last, so that what is there with it is whole.
    """
    from filelock import FileLock

    facts = place / "facts.json"
    if facts.exists():
        return read_json(facts)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KDScopeError(f"{place} cannot be made: {error.strerror}; give another cache folder") from error
    with FileLock(place / "lock"):
        if facts.exists():
            return read_json(facts)
        for draft in place.glob(".*.tmp"):  # left by a process that was killed
            draft.unlink()
        try:
            size = request.image_size or _common_size(listings["train"])
            for name, listing in listings.items():
                decode(listing, size, place / f"{name}.npy", f"decoding {name}", request.progress)
            mean, std = moments(torch.from_numpy(np.load(place / "train.npy", mmap_mode="c")))
            write_json(facts, {"source": request.argument, "mean": mean, "std": std})
        except BaseException:  # the folder, once mended, has another key: what is here would lie here for ever
            for name in listings:
                (place / f"{name}.npy").unlink(missing_ok=True)
            raise
    return read_json(facts)


def decode(listing: Listing, size: int | tuple[int, int], target: Path, title: str, progress: bool) -> None:
    """Decode all images of `listing` into the .npy file `target`, uint8 [N, 3, H, W], in as many processes as there are
    cores.

    Args:
        listing: the images.
        size: side that images are scaled to, or the (height, width) that all must have.
        target: written whole or not at all.
        title: of the progress bar.
        progress: whether there is one, when standard error is a terminal.

    Raises:
        KDScopeError: an image that cannot be read or has another size (its path), a full disk.
    """
    height, width = (size, size) if isinstance(size, int) else size
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(listing.files), 3, height, width)}
    paths = [f"{listing.root}/{file}" for file in listing.files]
    with replacing(target) as draft:
        with open(draft, "wb") as handle:
            np.lib.format.write_array_header_1_0(handle, header)
            start = handle.tell()
        image_bytes = 3 * height * width
        jobs = [(paths[i : i + CHUNK], size, draft, start + i * image_bytes) for i in range(0, len(paths), CHUNK)]
        with bar(title, len(paths), progress) as advance:
            for count in _in_parallel(jobs):
                advance(count)


def _in_parallel(jobs: list[tuple]) -> Iterator[int]:
    """Run `_decode_some` on each job, in forked processes (they import nothing again) where the system has such."""
    workers = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, len(jobs))
    if workers < 2 or "fork" not in get_all_start_methods():
        yield from (_decode_some(*job) for job in jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
        futures = [pool.submit(_decode_some, *job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _decode_some(paths: list[str], size: int | tuple[int, int], draft: Path, offset: int) -> int:
    """Decode some images and write them at `offset` of `draft`; not through a map, whose writer a full disk kills."""
    images = np.stack([read_image(path, size) for path in paths])
    with open(draft, "r+b") as handle:
        handle.seek(offset)
        handle.write(images.tobytes())
    return len(paths)


def read_image(path: str, size: int | tuple[int, int]) -> np.ndarray:
    """One image as uint8 [3, H, W]: scaled to the short side and cut at the centre, or of exactly (height, width).

    White is 255, whether the file has 8 bits a channel or 16 (grey: v / 257, rounded).

    Raises:
        KDScopeError: an image that cannot be read or has another size, or pixels without a known white (32 bits).
    """
    from PIL import Image

    try:
        with Image.open(path) as file:
            image = _eight_bits(file).convert("RGB")
    except Exception as error:  # Pillow's decoders raise errors of many classes for broken files
        raise KDScopeError(f"{path} is not an image that can be read: {' '.join(str(error).split())}") from None
    if isinstance(size, int):
        image = _scale_and_cut(image, size)
    elif (image.height, image.width) != size:
        found, usual = f"{image.width} x {image.height}", f"{size[1]} x {size[0]}"
        raise KDScopeError(
            f"{path} has {found} pixels and others have {usual}; "
            "scale all by image_size (--set data.image_size=N, --image-size N)"
        )
    return np.asarray(image).transpose(2, 0, 1)


def _eight_bits(image: Any) -> Any:
    """A grey image of 16 bits a pixel in 8, which Pillow itself would clip at 255; any other as it is."""
    from PIL import Image

    if not image.mode.startswith(("I", "F")):
        return image
    # Where Pillow has no mode of 16 bits for a format of at most 16, it gives 32.
    if not (image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))):
        raise ValueError(f"its pixels are numbers of 32 bits ({image.mode}), of which none is known to be white")
    pixels = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((pixels + 128) // 257).astype(np.uint8))


def _scale_and_cut(image: Any, size: int) -> Any:
    from PIL import Image

    short = min(image.size)
    if short != size:
        sides = [max(size, round(side * size / short)) for side in image.size]
        image = image.resize(sides, Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def _common_size(listing: Listing) -> tuple[int, int]:
    """(height, width) of the first image; `read_image` holds the others to it."""
    from PIL import Image

    path = f"{listing.root}/{listing.files[0]}"
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception as error:
        raise KDScopeError(f"{path} is not an image that can be read: {' '.join(str(error).split())}") from None
