"""From token ids to the tensors of a batch: framing, masking, next-sentence pairs, bucketing, numbered batches."""
