"""Numbers about detectors, on arrays: where they look, where they differ, what they find, and what they inherit."""
