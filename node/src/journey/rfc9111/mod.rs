//! What a shared HTTP cache may store and reuse (RFC 9111), for what is not ours and `other = "rfc9111"`. Small pure functions;
//! time is given from outside. Knows no store, no connection and no class.
//!
//! Written by hand rather than with http-cache-semantics: there, policy and head are one opaque object that would have to be
//! stored beside ours, a qualified `private="…"` forbids storing as a bare one does, and invalidation (4.4) is absent.
//!
//! The order in which a journey needs them:
//! `variant` finds the key, `reuse` decides whether what is stored will do, `storing` whether an answer is stored and as what,
//! `failed` what a failed validation means, `invalidation` what an unsafe method takes away.

mod age;
mod invalidation;
mod reuse;
mod storing;
mod variant;

pub use age::{Exchange, current_age, lifetime};
pub use invalidation::{invalidated, is_unsafe};
pub use reuse::{Failure, Reuse, Stored, Why, failed, reuse};
pub use storing::{NotStored, kept_fields, storable, updated, validates};
pub use variant::{names, variant_key};

#[cfg(test)]
fn fields(pairs: &[(&'static str, &'static str)]) -> http::HeaderMap {
    let mut map = http::HeaderMap::new();
    for (name, value) in pairs {
        map.append(http::HeaderName::from_static(name), http::HeaderValue::from_static(value));
    }
    map
}
