//! Metadata that comes and goes while something is under way.
