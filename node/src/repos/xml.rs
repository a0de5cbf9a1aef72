//! What all readers of XML here have in common.

use std::io;

use quick_xml::XmlVersion::Explicit1_0;
use quick_xml::events::{BytesRef, BytesStart};

/// The value of an attribute, if the element has it.
pub(super) fn attribute(element: &BytesStart<'_>, name: &str) -> io::Result<Option<String>> {
    let bad = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
    let found = element.try_get_attribute(name).map_err(|e| bad(e.to_string()))?;
    let value = found.map(|found| found.normalized_value(Explicit1_0)).transpose();
    Ok(value.map_err(|e| bad(e.to_string()))?.map(|value| value.into_owned()))
}

/// The text that an entity stands for, where XML knows it of itself.
pub(super) fn entity(name: &BytesRef<'_>) -> io::Result<String> {
    let unknown = || io::Error::new(io::ErrorKind::InvalidData, format!("the entity &{};", &**name));
    match name.resolve_char_ref() {
        Ok(Some(character)) => Ok(character.to_string()),
        Ok(None) => quick_xml::escape::resolve_predefined_entity(name).map(str::to_owned).ok_or_else(unknown),
        Err(_) => Err(unknown()),
    }
}
