"""What every room of the house speaks: images, garments, predictors and model bundles.

Imports NumPy, OpenCV, Pillow and ONNX Runtime, and nothing else of this project.
"""
