//! What a shared HTTP cache may store and reuse (RFC 9111), for what is not ours and `other = "rfc9111"`. Small pure functions;
//! time is given from outside. Knows no store, no connection and no class.
//!
//! Written by hand rather than with http-cache-semantics: there, policy and head are one opaque object that would have to be
//! stored beside ours, a qualified `private="…"` forbids storing as a bare one does, and invalidation (4.4) is absent.
//!
//! The order in which a journey needs them:
//! `asking` says what may be asked for all, `variant` finds the key, `reuse` decides whether what is stored will do, `storing` whether an answer is stored and as what,
//! `failed` what a failed validation means, `invalidation` what an unsafe method takes away.

mod age;
mod asking;
mod invalidation;
mod reuse;
mod storing;
mod variant;

pub use age::{Exchange, current_age, lifetime};
pub use asking::{shared_fields, wants_less};
pub use invalidation::{invalidated, is_unsafe};
pub use reuse::{Failure, Reuse, Stored, Why, failed, reuse};
pub use storing::{NotStored, kept_fields, may_be_shared_with, storable, updated, validates};
pub use variant::{Admitted, VARIANTS_MAX, Variants, names};

#[cfg(test)]
fn fields(pairs: &[(&'static str, &'static str)]) -> http::HeaderMap {
    let mut map = http::HeaderMap::new();
    for (name, value) in pairs {
        map.append(http::HeaderName::from_static(name), http::HeaderValue::from_static(value));
    }
    map
}
