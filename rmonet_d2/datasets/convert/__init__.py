"""Published TFRecord files converted into this project's format."""
