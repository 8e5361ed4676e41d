"""Search spaces as YAML; `platform.config.space_files` reads them."""
