"""Detectron2's own R-CNNs: trained by its `DefaultTrainer`, served from `config.yaml` and weights.

`config` and `labels` import no training framework; the other modules need Detectron2.
"""
