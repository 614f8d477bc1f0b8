"""Objects and sources -> one shared library, held to its platform's rules."""
