"""XDC, SDC, MDC and CDC: deep clustering across picture and sound (arXiv 1911.12667)."""
