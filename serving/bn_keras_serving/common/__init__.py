"""What every part of the server needs: errors, limits, metrics, tensors."""
