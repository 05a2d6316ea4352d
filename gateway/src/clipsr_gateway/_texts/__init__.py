"""Labels, templates and texts: checked, resolved, cached and warmed."""
