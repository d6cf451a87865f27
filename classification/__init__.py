"""The attribute classifier: one network, seven answers about a garment, none contradicting another.

Serving files (config, preprocess, postprocess, predictor, evaluate) import no training framework;
network, train and export import Keras, which `python -m classification train|export` loads late.
"""
