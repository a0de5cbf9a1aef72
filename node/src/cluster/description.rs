//! The head of an object in the words that nodes use among themselves. Numbers of classes and algorithms are for ever.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use imirror_protocol::transfer::{self, Description, FIELDS_MAX, Field};
use imirror_protocol::wire::{Few, FewBytes};

use crate::classify::{Algorithm, Class, Digest, KeyHash, Url};
use crate::store::Head;

const CLASSES: [Class; 4] = [Class::Package, Class::ImmutableMetadata, Class::MutableMetadata, Class::Other];

const ALGORITHMS: [Algorithm; 5] =
    [Algorithm::Md5, Algorithm::Sha1, Algorithm::Sha256, Algorithm::Sha512, Algorithm::Sha384];

/// What can be told of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    pub url: Url,
    pub head: Head,
    pub class: Class,
    pub digest: Option<Digest>,
}

/// `None` when the head has more or longer fields than can be told.
pub fn describe(url: &Url, head: &Head, class: Class, digest: Option<&Digest>) -> Option<Description> {
    let fields: Option<Vec<_>> =
        head.fields.iter().map(|(name, value)| Field::new(name.as_str().as_bytes(), value.as_bytes())).collect();
    let fields = fields.filter(|fields| fields.len() <= FIELDS_MAX)?;
    let digest = digest.map(|digest| transfer::Digest {
        algorithm: number(&ALGORITHMS, digest.algorithm()),
        bytes: FewBytes::of(digest.bytes()),
    });
    Some(Description {
        status: head.status.as_u16(),
        fields: Few::of(fields),
        class: number(&CLASSES, class),
        digest,
        name: FewBytes::of(url.as_str().as_bytes()),
    })
}

/// What a peer has told of the object that `key` names; `None` when that makes no sense. A class or a digest of a later version
/// is left out.
pub fn understand(key: &KeyHash, description: &Description) -> Option<Described> {
    let url = Url::parse(std::str::from_utf8(&description.name).ok()?).ok()?;
    let mut fields = HeaderMap::with_capacity(description.fields.len());
    for field in description.fields.iter() {
        fields.append(HeaderName::from_bytes(&field.name).ok()?, HeaderValue::from_bytes(&field.value).ok()?);
    }
    let head = Head { status: StatusCode::from_u16(description.status).ok()?, fields };
    let class = CLASSES.get(usize::from(description.class)).copied().unwrap_or(Class::Other);
    let digest = match &description.digest {
        None => None,
        Some(digest) => match ALGORITHMS.get(usize::from(digest.algorithm)) {
            Some(algorithm) => Some(Digest::new(*algorithm, &digest.bytes)?),
            None => None,
        },
    };
    let is_meant = url.key_hash() == *key || digest.as_ref().and_then(Digest::content_key) == Some(*key);
    is_meant.then_some(Described { url, head, class, digest })
}

fn number<T: PartialEq>(all: &[T], one: T) -> u8 {
    // Every one is in its list, which the test holds to.
    all.iter().position(|each| *each == one).and_then(|index| u8::try_from(index).ok()).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url() -> Url {
        Url::parse("http://example.org/a.rpm").unwrap()
    }

    fn understood(description: &Description) -> Option<(Head, Class, Option<Digest>)> {
        let Described { url: told, head, class, digest } = understand(&url().key_hash(), description)?;
        assert_eq!(told, url());
        Some((head, class, digest))
    }

    fn head(fields: &[(&str, &str)]) -> Head {
        let fields = fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        Head {
            status: StatusCode::OK,
            fields: HeaderMap::from_iter(fields.collect::<Vec<(HeaderName, HeaderValue)>>()),
        }
    }

    #[test]
    fn what_is_told_is_understood() {
        let mut several = head(&[("etag", "\"1\""), ("content-type", "text/plain")]);
        several.fields.append("link", "<a>".parse().unwrap());
        several.fields.append("link", "<b>".parse().unwrap());
        for (number, class) in CLASSES.into_iter().enumerate() {
            for (width, algorithm) in ALGORITHMS.into_iter().enumerate() {
                let digest = Digest::new(algorithm, &vec![9; algorithm.width()]).unwrap();
                let told = describe(&url(), &several, class, Some(&digest)).unwrap();
                assert_eq!(
                    (usize::from(told.class), told.digest.as_ref().map(|d| d.algorithm)),
                    (number, Some(width as u8))
                );
                assert_eq!(understood(&told), Some((several.clone(), class, Some(digest))));
            }
        }
        let told = describe(&url(), &several, Class::Package, None).unwrap();
        assert_eq!(understood(&told), Some((several, Class::Package, None)));
    }

    #[test]
    fn what_is_no_head_is_refused_and_what_is_of_later_versions_left_out() {
        let told = describe(&url(), &head(&[]), Class::Package, None).unwrap();
        let of = |algorithm, bytes: &[u8]| transfer::Digest { algorithm, bytes: FewBytes::of(bytes) };
        let wrong = [
            Description { status: 99, ..told.clone() },
            Description { name: FewBytes::of(b"http://example.org/b.rpm"), ..told.clone() },
            Description { name: FewBytes::of(b"nonsense"), ..told.clone() },
            Description { fields: Few::of(Field::new(b"no name", b"")), ..told.clone() },
            Description { fields: Few::of(Field::new(b"name", b"two\r\nlines")), ..told.clone() },
            Description { digest: Some(of(2, &[1; 31])), ..told.clone() },
        ];
        assert!(wrong.iter().all(|wrong| understood(wrong).is_none()));
        let later = Description { class: 200, digest: Some(of(200, &[1; 3])), ..told };
        assert_eq!(understood(&later), Some((head(&[]), Class::Other, None)));
    }

    #[test]
    fn a_head_that_is_too_much_is_not_told() {
        let long = "x".repeat(transfer::FIELD_VALUE_MAX + 1);
        assert!(describe(&url(), &head(&[("a", &long)]), Class::Package, None).is_none());
        let names: Vec<_> = (0..=FIELDS_MAX).map(|i| format!("x-{i}")).collect();
        let many: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
        assert!(describe(&url(), &head(&many), Class::Package, None).is_none());
        assert!(describe(&url(), &head(&many[1..]), Class::Package, None).is_some());
    }
}
