"""Machine facts and generated parts of pages."""
