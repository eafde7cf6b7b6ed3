"""Image files: listing, decoding, caching as records, and reading from memory or disk."""
