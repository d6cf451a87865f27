"""A second look at the upper body: sleeves, neckline, pattern and more, for each instance of it.

A bundle of its own, since what it learnt from may be used for research only; whoever does not want
it serves without. Reading order: `groups.py` names the attributes, `region.py` cuts an instance out
of the photo, `dataset.py` reads the labelled photos, `network.py` is the network, `train.py` fits
it, `export.py` makes the bundle. Serving files (`region`, `answers`, `predictor`) and `evaluate`
import no training framework.
"""
