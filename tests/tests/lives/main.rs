//! How a series lives: what it is called, what it goes on through, and when it ends. On real engines, under traffic.

mod engines;
mod series;
