"""Models from elsewhere become bundles: MONAI's, torchxrayvision's and CheXNet's DenseNets. Data only, never code."""
