"""Ground floor: PyTorch and DeepSpeed. Knows no Ray, MLflow, S3 or command line."""
