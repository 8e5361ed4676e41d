"""Search spaces as YAML; `platform.config.space` reads them."""
