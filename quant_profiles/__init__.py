"""One TOML file for each quantization level; read by ``exporter.profiles``."""
