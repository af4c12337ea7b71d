//! How a series lives: what it is called, what it goes on through, and when it ends. On real engines, under traffic of
//! known amounts, and beside a scraper that never pauses.

mod dark;
mod engines;
mod generations;
mod line;
mod nameless;
mod names;
mod networks;
mod series;
