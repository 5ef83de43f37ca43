"""What the page shows, one section a file: from checked files to values for a template."""
