"""How the bundled draft and target were trained and are measured; nothing at run time imports this."""
