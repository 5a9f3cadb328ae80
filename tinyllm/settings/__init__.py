"""Every setting: what it may be, where its value came from, and what users wrote in files and variables."""
