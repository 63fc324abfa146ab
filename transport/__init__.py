"""How the two nodes talk: messages, wire format, links, codecs, clocks. Knows no method and no model."""
