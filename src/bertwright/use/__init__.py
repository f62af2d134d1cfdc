"""What a user does with a trained model: judge texts, fill masks, compare pairs, take features, ask why, export."""
