"""Our own Mask R-CNN with an attribute head: fine garment tags, masks and style attributes.

Reading order: `network.py` says how the parts fit; each part is one file. Serving files
(`config`, `preprocess`, `postprocess`, `predictor`, `evaluate`) import no training framework.
"""
