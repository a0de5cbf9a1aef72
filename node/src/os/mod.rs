//! The only clock, entropy, `fsync`, memory mappings and raw sockets of the program. Knows nothing of packages.

pub mod clock;
pub mod disk;
pub mod entropy;
pub mod load;
pub mod mapping;
pub mod net;
pub mod process;
pub mod rate;
pub mod sendfile;
pub mod tasks;
