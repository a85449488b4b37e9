"""Pictures without a model: what users give, made one kind of thing, and what is done to it."""
