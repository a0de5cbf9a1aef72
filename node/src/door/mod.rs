//! The doors: where requests come in and answers go out. They look into no store.

mod body;
pub mod client;
mod lists;
mod meter;
mod page;
pub mod pages;
mod patience;
pub mod peer;
mod upload;
