"""Training of the small parts of systems: from a pair of models, in minutes, with a card that says on what."""
