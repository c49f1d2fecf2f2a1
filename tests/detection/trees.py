"""Made-up datasets on the disk, in the layouts of COCO, VOC and VisDrone."""

import json

import numpy as np
from PIL import Image


def pictures(folder, names, size=(30, 20), seed=0):
    """Images of random pixels, `size` = (width, height)."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed)
    for name in names:
        Image.fromarray(pixels.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(folder / name)


def coco_content(names, annotations, size=(30, 20), categories=((7, "dog"), (3, "cat"))):
    """A COCO file of images 10, 11, ... and annotations given as (image id, category id, bbox, further fields)."""
    return {
        "images": [
            {"id": 10 + i, "file_name": name, "width": size[0], "height": size[1]} for i, name in enumerate(names)
        ],
        "annotations": [
            {"id": 100 + i, "image_id": image, "category_id": category, "bbox": box, **more}
            for i, (image, category, box, more) in enumerate(annotations)
        ],
        "categories": [{"id": number, "name": name} for number, name in categories],
    }


GOOD = [
    (11, 7, [2, 3, 10, 5], {"area": 31.5, "iscrowd": 0}),
    (10, 3, [0, 0, 30, 20], {}),
    (11, 3, [1.5, 2, 4, 4], {"iscrowd": 1}),
]


def coco_tree(root, train=None, test=None):
    """COCO's own layout: three training images, of which the last is empty, and one test image."""
    names = {"train2017": ["a.png", "b.png", "c.png"], "val2017": ["d.png"]}
    for part, files in names.items():
        pictures(root / part, files)
    (root / "annotations").mkdir()
    contents = {
        "train2017": train or coco_content(names["train2017"], GOOD),
        "val2017": test or coco_content(names["val2017"], [(10, 7, [1, 1, 5, 5], {})]),
    }
    for part, content in contents.items():
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))
    return root


def voc_xml(objects, size=(30, 20)):
    """An annotation of VOC: objects are (name, xmin, ymin, xmax, ymax, difficult)."""
    rows = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{a}</xmin><ymin>{b}</ymin>"
        f"<xmax>{c}</xmax><ymax>{d}</ymax></bndbox><part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin>"
        f"<xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"
        for name, a, b, c, d, difficult in objects
    )
    return (
        f"<annotation><filename>x</filename><size><width>{size[0]}</width><height>{size[1]}</height></size>{rows}"
        f"</annotation>"
    )


def voc_tree(root, parts=("trainval", "test")):
    """Two training images, one test image."""
    images = {
        "000001": [("dog", 1, 1, 30, 20, 0), ("cat", 3, 4, 10, 12, 1)],
        "000002": [],
        "000003": [("cat", 5, 6, 7, 8, 0)],
    }
    pictures(root / "JPEGImages", [f"{name}.jpg" for name in images])
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for name, objects in images.items():
        (root / "Annotations" / f"{name}.xml").write_text(voc_xml(objects))
    for part, names in zip(parts, ("000001\n000002\n", "000003  1\n"), strict=True):
        (root / "ImageSets" / "Main" / f"{part}.txt").write_text(names)
    return root


def visdrone_tree(root):
    """One training image with every kind of row, one empty; one test image."""
    rows = {
        "train": {
            "0001": "1,2,10,5,1,4,0,0\n3,3,4,4,0,1,0,1,\n\n0,0,5,5,0,0,0,0\n20,10,5,5,0,11,0,0\n",
            "0002": "",
        },
        "val": {"0003": "4,4,8,8,1,10,1,2"},
    }
    for part, images in rows.items():
        place = root / f"VisDrone2019-DET-{part}"
        pictures(place / "images", [f"{name}.jpg" for name in images])
        (place / "annotations").mkdir()
        for name, text in images.items():
            (place / "annotations" / f"{name}.txt").write_text(text)
    return root
