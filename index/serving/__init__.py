"""`pipeline serve`: an index behind HTTP, and the page that asks it."""
