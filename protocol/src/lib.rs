//! What the nodes of a site will say to each other and how they will decide. Nothing is here yet: a node works alone.
#![no_std]
