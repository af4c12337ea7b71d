//! What churn leaves behind: nothing. Containers, networks and engines come and go by the hundred; after each round dtm
//! must hold what it held before, by the kernel's own view of its descriptors, threads, programs, maps and memory.

mod churn;
mod crashes;
mod engines;
mod floods;
mod holdings;
mod lives;
mod maps;
mod networks;
mod process;
mod watched;
