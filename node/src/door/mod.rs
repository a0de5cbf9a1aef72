//! The doors: where requests come in and answers go out. They look into no store.

mod assets;
mod body;
pub mod client;
pub mod events;
mod fast_path;
mod lists;
mod meter;
pub mod page;
pub mod pages;
mod patience;
pub mod peer;
pub mod recipes;
mod upload;
