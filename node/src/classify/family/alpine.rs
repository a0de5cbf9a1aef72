//! Alpine Linux: apk.

use super::{Found, Place, before};
use crate::classify::Class;

pub(super) fn classify(place: &Place<'_>) -> Found {
    match place.name.as_ref() {
        "APKINDEX.tar.gz" | "Packages.adb" => Some((Class::MutableMetadata, None)),
        name => before(name, ".apk").map(|_| (Class::Package, None)),
    }
}
