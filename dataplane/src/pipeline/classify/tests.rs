//! Decisions by hand: one case per way that a first packet can go.
