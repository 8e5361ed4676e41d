"""Training and sampling with PyTorch and DeepSpeed; knows no Ray, MLflow, S3 or command line."""
