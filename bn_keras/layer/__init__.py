"""The batch normalization layer and its arithmetic."""
