"""The garment detector: Detectron2 trains it, ONNX Runtime serves it.

Serving files (config, preprocess, postprocess, predictor, evaluate) import no training framework.
"""
