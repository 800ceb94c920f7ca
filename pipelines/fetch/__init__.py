"""Open releases of glioma images, expression and clinical tables, fetched from their publishers."""
