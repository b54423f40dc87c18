"""What readers make tensors of: elements, and sources of them. Knows no format."""
