"""TensorFlow's V2 bundles and what lies beside them."""
