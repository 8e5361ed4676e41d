"""Ground floor: search spaces as YAML, and the code that reads them."""
