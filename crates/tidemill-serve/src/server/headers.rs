//! Looking up a header of a request.
//!
//! In: the headers and a name. Out: the first value. A map hashes every name it is asked for; a request has a handful of
//! headers and is asked for a dozen, most of which it has not.

use hyper::{
    HeaderMap,
    header::{HeaderName, HeaderValue},
};

/// Up to so many are looked through.
const FEW: usize = 12;

/// What [`HeaderMap::get`] gives.
#[inline]
pub(super) fn find<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    match headers.len() {
        0..=FEW => headers.iter().find(|(other, _)| *other == name).map(|(_, value)| value),
        _ => headers.get(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_first_value_of_the_name_however_many_there_are() {
        let mut headers = HeaderMap::new();
        let name = |i: usize| HeaderName::from_bytes(format!("x-{i}").as_bytes()).unwrap();
        for i in 0..2 * FEW {
            assert_eq!(find(&headers, &name(i)), None);
            headers.append(name(i), HeaderValue::from(i));
            headers.append(name(i), HeaderValue::from_static("second"));
            for asked in 0..2 * FEW {
                assert_eq!(find(&headers, &name(asked)), headers.get(name(asked)), "{asked} of {i}");
            }
        }
    }
}
