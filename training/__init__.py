"""What the three training rooms share: public data sets, splits, pretrained weights, COCO scores.

Serving never imports this package. Modules here import torch only where their name says so.
"""
