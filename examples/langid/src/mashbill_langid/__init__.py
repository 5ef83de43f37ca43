"""Five language detectors as teachers for mashbill, and the data to distil them."""
