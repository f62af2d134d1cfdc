"""Applications of a trained model: commands, explanations, export to other tools, a web page with a JSON API."""
