"""One way through: fetch, decode, detect, crop, classify, style, assemble."""
