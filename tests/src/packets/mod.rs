//! Packets built by hand.
