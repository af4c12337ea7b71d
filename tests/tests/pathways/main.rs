//! Where traffic goes: for each pathway one known transfer, and exactly the cells of the second view and the pair of the
//! matrix that are its own move, by exactly that much.

mod addresses;
mod bridges;
mod elsewhere;
mod frames;
mod names;
mod services;
mod stage;
mod switches;
