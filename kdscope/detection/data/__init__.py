"""Images with boxes: generated scenes, and the formats of COCO, PASCAL VOC and VisDrone."""
