"""Our own Mask R-CNN with an attribute head: fine garment tags, masks and style attributes.

Reading order: `network.py` says how the parts fit; each part is one file (`backbone`, `fpn`,
`anchors`, `rpn`, `pooling`, `box_head`, `mask_head`, `attribute_head`, with `boxes` and `targets`
under them). `train.py` fits boxes, tags and masks, `train_attributes.py` the attribute head,
`export.py` makes the bundle. `layouts/` reads Fashionpedia and iMaterialist, whose attributes are
learnt with the masks (`fashion_data.py`). `upper_body/` is a second, small network with a bundle of
its own. Serving files (`preprocess`, `postprocess`, `predictor`) and `evaluate` import no training
framework.
"""
