"""Classification as a measure of generated images: does training on them help on real ones?

A network is trained on long-tailed images, or on these and generated ones, by the recipe of
LDAM-DRW (Cao et al. 2019) or that of ImageNet-LT (Kang et al. 2020), and tested on balanced real
images: CBDM table 4, and what DiffuLT does with its images.
`small_resnet.py` is the feature network of evaluations. Modules are imported one by one, so that the
settings of that network can be read without PyTorch.
"""
