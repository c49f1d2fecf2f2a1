"""Images with the attention of teacher, student and student alone: pictures for `kdscope.figures.gallery`."""

from collections.abc import Mapping

import numpy as np

from kdscope.analyses.cast import Cast, pairs
from kdscope.analyses.detection_maps import EVERY, Grid, grid_of
from kdscope.analyses.detection_views import Seen
from kdscope.analyses.gallery import PERCENTILES, at_percentiles, shown
from kdscope.detection.measures.attention_gap import attention_gap
from kdscope.features.thumbnails import THUMBNAIL
from kdscope.figures.pictures import Pictures


def attention_pictures(
    roles: Cast,
    networks: Mapping[tuple, Seen],
    maps: Mapping[tuple, Mapping[int, np.ndarray]],
    grids: Mapping[int, Grid],
    title: str = "attention",
) -> Pictures | None:
    """Attention at the finest level, of images at percentiles of the overlap of the first student with its teacher.

    None where no student has a teacher here, no image has an object, or the caches hold no pictures.
    """
    parties = [party for party in shown(pairs(roles)) if party.key in networks]
    if len(parties) < 2 or THUMBNAIL not in networks[parties[0].key].cache.names:
        return None
    stride = min(grids)
    inside, valid = grids[stride].objects(EVERY)
    own = [maps[party.key][stride] for party in parties]
    overlap = np.stack([attention_gap(own[0], each, inside, valid).iou for each in own], axis=1)
    overlap[:, 0] = np.nan  # of the teacher with itself
    rows = at_percentiles(overlap[:, 1])
    if not len(rows):
        return None
    cache, names = networks[parties[0].key].cache, [roles.name(party) for party in parties]
    images = cache.array(THUMBNAIL)[rows]
    return Pictures(
        f"{title} at stride {stride}",
        f"images at the {', '.join(map(str, PERCENTILES))}th percentile of the overlap of {names[1]} with {names[0]}",
        images,
        tuple(f"no. {cache.index[row]}" for row in rows),
        {name: each[rows].astype(np.float32) for name, each in zip(names, own, strict=True)},
        grid_of(cache, images.shape[-2:]).objects(EVERY)[0][rows],
        {"IoU": overlap[rows]},
    )
