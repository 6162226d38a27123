"""The page that `speechrnn serve` shows, as data files."""
