"""What cannot be data: the forward pass and the losses of each model family, in TensorFlow."""
