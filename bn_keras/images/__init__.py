"""Images: decoding, preprocessing, augmentation and crops."""
