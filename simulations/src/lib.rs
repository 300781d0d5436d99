//! A fleet in one process on the real core, in virtual time.
