"""Images in class folders, decoded once: PATH/train/CLASS/*.jpg and PATH/test/CLASS/*.jpg (or val/ for test/).

The decoded images are kept as one memory-mapped uint8 file (.npy, so that other tools open it too) for each split,
under a key made of the path, the list of files (names, sizes, times of change) and the image size: a changed folder is
another key.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdscope.data.catalogue import DATASETS, Request, home
from kdscope.data.decoding import image_size, read_image
from kdscope.data.listing import Listing, data_folder, list_classes, same_classes
from kdscope.data.split import Dataset, Split, moments
from kdscope.errors import KDScopeError
from kdscope.files import digest, read_json, replacing, write_json
from kdscope.progress import bar

LAYOUT = 2  # of the cache; part of its key
CHUNK = 256  # images a worker decodes between two reports


@DATASETS.register("folder")
def folder(request: Request) -> Dataset:
    """`folder:PATH`: any images. Classes are the names of the folders, sorted, and must be the same in both splits.

    With `image_size`, each image is scaled (bicubic) so that its short side has that size, and its centre is cut out;
    without, all must have one size.
    """
    root = data_folder(request, "train/ and test/")
    layout = "folder:PATH needs PATH/train/CLASS/ and PATH/test/CLASS/ with images"
    test = next((root / name for name in ("test", "val") if (root / name).is_dir()), root / "test")
    train, test = (list_classes(place, layout) for place in (root / "train", test))
    same_classes(root, train, test)
    return decoded({"train": train, "test": test}, request)


def decoded(listings: dict[str, Listing], request: Request) -> Dataset:
    """The dataset of the images in `listings` ("train" and "test", of the same classes), decoded once and mapped.

    Raises:
        KDScopeError: as `decode`.
    """
    key = digest(
        {
            "layout": LAYOUT,
            "size": request.image_size,
            "listings": [[str(listing.root), listing.files, listing.stamps()] for listing in listings.values()],
        }
    )
    place = (request.cache_dir or home("KDSCOPE_CACHE")) / "folder" / key[:32]
    facts = prepare(place, listings, request)
    splits = {}
    for name, listing in listings.items():
        # Mapped copy-on-write: torch wants memory that could be written, and the file stays as it is.
        images = torch.from_numpy(np.load(place / f"{name}.npy", mmap_mode="c"))
        splits[name] = Split(name, images, torch.tensor(listing.labels))
    mean, std = tuple(facts["mean"]), tuple(facts["std"])
    return Dataset(request.name, splits["train"], splits["test"], None, listings["train"].classes, mean, std)


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
            first = listings["train"]
            size = request.image_size or image_size(f"{first.root}/{first.files[0]}")
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
