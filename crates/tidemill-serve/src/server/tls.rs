//! TLS: a certificate and its key as PEM become what connections are encrypted with.
//!
//! In: the contents of the two files, at the start and again whenever they changed. Out: a configuration for HTTP/1.1 and
//! HTTP/2, which connections that come later take; those that are open keep theirs. A file that cannot be used is refused
//! with what is wrong in it, and the configuration before it stays. Where authorities of clients are given, a client shows a
//! certificate of one of them, or the handshake ends with an alert; the reason is kept for whoever tells it.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::{
    Error as TlsError, InconsistentKeys, RootCertStore, ServerConfig,
    crypto::ring::default_provider,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{Error as PemError, PemObject},
    },
    server::WebPkiClientVerifier,
};
use tidemill_base::{Error, Result};
use tokio_rustls::TlsAcceptor;

use crate::moment;

/// A file's name and what it holds; the name is for messages.
#[derive(Clone, Copy, Debug)]
pub struct Pem<'a> {
    /// What the file is called.
    pub name: &'a str,
    /// What it holds.
    pub bytes: &'a [u8],
}

/// What connections are encrypted with.
pub struct Tls {
    now: ArcSwap<Configured>,
    /// Connections that ended in the handshake since somebody asked, and why the last one did.
    refused: Mutex<(u64, String)>,
}

struct Configured {
    config: Arc<ServerConfig>,
    not_after_ms: i64,
}

impl Tls {
    /// Takes a chain of certificates, the server's own first, and its key. `now_ms`: the time, because a certificate that
    /// has run out is of no use to anybody.
    pub fn new(chain: Pem<'_>, key: Pem<'_>, now_ms: i64) -> Result<Self> {
        Self::for_clients_of(None, chain, key, now_ms)
    }

    /// The same; where there are certificates of authorities, for clients only that show one of theirs.
    pub fn for_clients_of(authorities: Option<Pem<'_>>, chain: Pem<'_>, key: Pem<'_>, now_ms: i64) -> Result<Self> {
        let now = ArcSwap::from_pointee(configured(chain, key, authorities, now_ms)?);
        Ok(Self { now, refused: Mutex::default() })
    }

    /// The same, for connections from now on. Where it fails, nothing changes.
    pub fn replace(&self, authorities: Option<Pem<'_>>, chain: Pem<'_>, key: Pem<'_>, now_ms: i64) -> Result<()> {
        self.now.store(Arc::new(configured(chain, key, authorities, now_ms)?));
        Ok(())
    }

    /// How many connections ended in the handshake since the last call, and why the last of them did.
    pub fn take_refused(&self) -> Option<(u64, String)> {
        let refused = std::mem::take(&mut *self.refused.lock().unwrap_or_else(PoisonError::into_inner));
        (refused.0 > 0).then_some(refused)
    }

    /// Remembers a handshake that failed.
    pub(super) fn refused(&self, why: &std::io::Error) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        *refused = (refused.0 + 1, why.to_string());
    }

    /// When the first certificate of the chain runs out.
    pub fn not_after_ms(&self) -> i64 {
        self.now.load().not_after_ms
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.now.load().config.clone().into()
    }
}

fn configured(chain: Pem<'_>, key: Pem<'_>, authorities: Option<Pem<'_>>, now_ms: i64) -> Result<Configured> {
    let certificates = CertificateDer::pem_slice_iter(chain.bytes).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|e| not_pem(chain, "certificate", &e))?;
    if certificates.is_empty() {
        return Err(not_pem(chain, "certificate", &PemError::NoItemsFound));
    }
    let mut not_after_ms = i64::MAX;
    for certificate in &certificates {
        let (begins, ends) = validity(certificate).ok_or_else(|| {
            Error::invalid(format!("{}: not an X.509 certificate; send the file that the authority gave", chain.name))
        })?;
        if ends < now_ms {
            let message = format!("{}: the certificate expired at {}; renew it", chain.name, moment::written(ends));
            return Err(Error::invalid(message));
        }
        if begins > now_ms {
            let message = format!("{}: the certificate begins at {} only", chain.name, moment::written(begins));
            return Err(Error::invalid(message));
        }
        not_after_ms = not_after_ms.min(ends);
    }
    let secret = PrivateKeyDer::from_pem_slice(key.bytes).map_err(|e| not_pem(key, "private key", &e))?;
    let provider = Arc::new(default_provider());
    let verifier = match authorities {
        Some(authorities) => {
            let builder = WebPkiClientVerifier::builder_with_provider(roots(authorities)?, provider.clone());
            builder.build().map_err(|e| Error::invalid(format!("{}: {e}", authorities.name)))?
        }
        None => WebPkiClientVerifier::no_client_auth(),
    };
    let built = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_client_cert_verifier(verifier).with_single_cert(certificates, secret));
    let mut config = built.map_err(|e| match e {
        TlsError::InconsistentKeys(InconsistentKeys::KeyMismatch) => Error::invalid(format!(
            "{} is not the key of the certificate in {}; the two must belong together",
            key.name, chain.name
        )),
        e => Error::invalid(format!("{} and {}: {e}", chain.name, key.name)),
    })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Configured { config: Arc::new(config), not_after_ms })
}

/// The authorities whose certificates clients may show.
fn roots(file: Pem<'_>) -> Result<Arc<RootCertStore>> {
    let certificates = CertificateDer::pem_slice_iter(file.bytes).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|e| not_pem(file, "certificate", &e))?;
    if certificates.is_empty() {
        return Err(not_pem(file, "certificate", &PemError::NoItemsFound));
    }
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots
            .add(certificate)
            .map_err(|e| Error::invalid(format!("{}: a certificate in it is none of an authority: {e}", file.name)))?;
    }
    Ok(Arc::new(roots))
}

fn not_pem(file: Pem<'_>, what: &str, e: &PemError) -> Error {
    let name = file.name;
    Error::invalid(match e {
        PemError::NoItemsFound => format!("{name}: no {what} in it; it wants PEM, '-----BEGIN ...-----'"),
        e => format!("{name}: {e}"),
    })
}

/// From when until when a certificate is valid, milliseconds since 1970. Nothing else of it is looked at here: clients
/// judge the rest.
fn validity(der: &[u8]) -> Option<(i64, i64)> {
    let (certificate, _) = element(der, SEQUENCE)?;
    let (mut body, _) = element(certificate, SEQUENCE)?;
    // The version may be left out; serial number, algorithm and issuer are not.
    if let Some((_, rest)) = element(body, VERSION) {
        body = rest;
    }
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        body = element(body, tag)?.1;
    }
    let (validity, _) = element(body, SEQUENCE)?;
    let (begins, rest) = time(validity)?;
    Some((begins, time(rest)?.0))
}

const INTEGER: u8 = 0x02;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The contents of a DER element with this tag, and what stands behind it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = der.split_first()?;
    let (&length, rest) = rest.split_first()?;
    if first != tag {
        return None;
    }
    match length {
        0..=0x7f => rest.split_at_checked(usize::from(length)),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            rest.split_at_checked(digits.iter().fold(0, |n, digit| n << 8 | usize::from(*digit)))
        }
        _ => None,
    }
}

/// A moment, and what stands behind it.
fn time(der: &[u8]) -> Option<(i64, &[u8])> {
    let (text, rest, century) = match element(der, UTC_TIME) {
        // Of two digits, 50 to 99 are of the last century (RFC 5280).
        Some((text, rest)) => (text, rest, if text.first()? < &b'5' { "20" } else { "19" }),
        None => element(der, GENERALIZED_TIME).map(|(text, rest)| (text, rest, ""))?,
    };
    let text = format!("{century}{}", std::str::from_utf8(text).ok()?);
    let part = |from: usize, to: usize| text.get(from..to);
    let (date, time) = ([part(0, 4)?, part(4, 6)?, part(6, 8)?], [part(8, 10)?, part(10, 12)?, part(12, 14)?]);
    let ms = moment::parse(&format!("{}T{}{}", date.join("-"), time.join(":"), part(14, text.len())?))?;
    Some((ms as i64, rest))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    const NOW: i64 = 1_795_257_000_000;

    fn made(from: (i32, u8, u8), to: (i32, u8, u8)) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_string()]).unwrap();
        params.not_before = date_time_ymd(from.0, from.1, from.2);
        params.not_after = date_time_ymd(to.0, to.1, to.2);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn refused(chain: &str, key: &str) -> String {
        let chain = Pem { name: "cert.pem", bytes: chain.as_bytes() };
        let key = Pem { name: "key.pem", bytes: key.as_bytes() };
        Tls::new(chain, key, NOW).err().unwrap().message().to_string()
    }

    /// Both forms of a date: two digits of the year until 2049, four from then on.
    #[test]
    fn a_certificate_says_how_long_it_is_valid() {
        for (to, ends) in [((2027, 3, 1), "2027-03-01T00:00:00Z"), ((2051, 12, 31), "2051-12-31T00:00:00Z")] {
            let (chain, key) = made((2026, 1, 2), to);
            let (chain, key) = (Pem { name: "c", bytes: chain.as_bytes() }, Pem { name: "k", bytes: key.as_bytes() });
            let tls = Tls::new(chain, key, NOW).unwrap();
            assert_eq!(moment::written(tls.not_after_ms()), ends);
        }
    }

    #[test]
    fn files_that_cannot_be_used_are_named_with_the_reason() {
        let (chain, key) = made((2026, 1, 1), (2027, 1, 1));
        let (old, old_key) = made((2025, 1, 1), (2026, 11, 20));
        let (early, early_key) = made((2026, 11, 22), (2027, 1, 1));
        for (chain, key, message) in [
            ("", &key, "cert.pem: no certificate in it; it wants PEM, '-----BEGIN ...-----'"),
            (&key, &key, "cert.pem: no certificate in it; it wants PEM, '-----BEGIN ...-----'"),
            (&chain, &chain, "key.pem: no private key in it; it wants PEM, '-----BEGIN ...-----'"),
            (&chain, &old_key, "key.pem is not the key of the certificate in cert.pem; the two must belong together"),
            (&old, &old_key, "cert.pem: the certificate expired at 2026-11-20T00:00:00Z; renew it"),
            (&early, &early_key, "cert.pem: the certificate begins at 2026-11-22T00:00:00Z only"),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                &key,
                "cert.pem: not an X.509 certificate; send the file that the authority gave",
            ),
        ] {
            assert_eq!(refused(chain, key), message);
        }
        let cut = &chain[..chain.len() / 2];
        assert!(refused(cut, &key).starts_with("cert.pem: "), "{}", refused(cut, &key));
    }

    /// What fails changes nothing: connections go on with the certificate before it.
    #[test]
    fn a_certificate_is_replaced_or_kept() {
        let (chain, key) = made((2026, 1, 1), (2027, 1, 1));
        let pem = |name, text: &'static str| Pem { name, bytes: text.as_bytes() };
        let leak = |text: String| -> &'static str { text.leak() };
        let (chain, key) = (leak(chain), leak(key));
        let tls = Tls::new(pem("c", chain), pem("k", key), NOW).unwrap();
        assert!(tls.replace(None, pem("c", ""), pem("k", key), NOW).is_err());
        assert_eq!(moment::written(tls.not_after_ms()), "2027-01-01T00:00:00Z");
        let (chain, key) = made((2026, 1, 1), (2028, 1, 1));
        tls.replace(None, pem("c", leak(chain)), pem("k", leak(key)), NOW).unwrap();
        assert_eq!(moment::written(tls.not_after_ms()), "2028-01-01T00:00:00Z");
    }

    proptest::proptest! {
        /// Whatever bytes come: an answer and no panic.
        #[test]
        fn any_bytes_are_answered(der in proptest::collection::vec(proptest::sample::select(&[0x30u8, 0x02, 0xa0, 0x17, 0x81, 0x84, 0, 1, 3, 255][..]), 0..60)) {
            let _ = validity(&der);
        }
    }
}
