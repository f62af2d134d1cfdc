"""What the model is asked: pairs of segments, hidden tokens, numbered batches."""
