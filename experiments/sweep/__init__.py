"""Many runs from one configuration: which (section, points), in which order (order), kept where (folder), run how
(runner, child), how far (status), and what came out (table)."""
