"""ClassifierService: zero-shot classification of single requests and streams."""
