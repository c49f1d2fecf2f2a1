"""What the numbers of detectors can be: where intervals of a few trainings end, for Student's t knows no ends."""

import math

SHARE = (0.0, 1.0)
POSITIVE = (0.0, math.inf)
DIFFERENCE = (-1.0, 1.0)  # of two shares
RANGES = {
    **dict.fromkeys(("ap", "ap50", "ap75", "ar", "patched-ap", "fidelity-ap"), SHARE),
    **dict.fromkeys(("ap-difference", "ap-lost"), DIFFERENCE),
    **dict.fromkeys(("agree-f1", "agree-f1-any-class", "label-agreement", "box-iou", "score-gap"), SHARE),
    **dict.fromkeys(("row-agreement", "worse-boxes"), SHARE),
    **dict.fromkeys(("row-kl", "row-kl-tilted"), POSITIVE),
    **dict.fromkeys(("transfer", "beyond-teacher", "harm", "kept", "inherited-false-positives"), SHARE),
    # What an oracle mends makes no average precision less, and none more than 1.
    "error-cost": SHARE,
    "errors-per-image": POSITIVE,
    **dict.fromkeys(("energy-in-boxes", "auroc", "area-matched-iou", "attention-overlap", "threshold-iou"), SHARE),
    **dict.fromkeys(("lift", "gap-foreground", "gap-background", "gap-ratio"), POSITIVE),
    **dict.fromkeys(("error-share", "level-share"), SHARE),
    **dict.fromkeys(("error-density", "normalised-error"), POSITIVE),
}
