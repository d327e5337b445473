//! What stands between the server and those who ask: TLS, tokens, and the rule that nobody forgets them.
//!
//! In: what was asked for at the start, and the address to listen on. Out: nothing, or a refusal to listen where others
//! could reach a server that is open to everybody.

use std::{net::SocketAddr, sync::Arc};

use tidemill_base::{Error, Result};

use super::{access::Access, tls::Tls};

/// TLS and tokens of a server; without them it is for this machine alone.
#[derive(Clone, Default)]
pub struct Border {
    /// Encrypts every connection.
    pub tls: Option<Arc<Tls>>,
    /// Lets in only who has a token.
    pub access: Option<Arc<Access>>,
    /// Whoever reaches the address may read and change everything, and this is meant.
    pub open_to_everyone: bool,
}

impl Border {
    /// Whether a server with this border may listen there.
    pub fn check(&self, address: SocketAddr) -> Result<()> {
        let missing = match (&self.tls, &self.access) {
            (Some(_), Some(_)) => return Ok(()),
            _ if self.open_to_everyone || address.ip().is_loopback() => return Ok(()),
            (None, None) => "TLS and tokens; use --tls-cert, --tls-key and --tokens",
            (None, Some(_)) => "TLS: tokens would be read on the way; use --tls-cert and --tls-key",
            (Some(_), None) => "tokens; use --tokens",
        };
        Err(Error::invalid(format!(
            "refusing to listen on {address} without {missing}, listen on 127.0.0.1, or say --open-to-everyone"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENS: &str = r#"{"tenants": [{"name": "all", "models": ["*"]}],
        "tokens": [{"name": "t", "tenant": "all", "roles": ["admin"],
                    "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}]}"#;

    /// B80: an open server is never an accident.
    #[test]
    fn b80_an_address_that_others_reach_wants_tls_and_tokens() {
        let open = Border::default();
        let tokens =
            Border { access: Some(Arc::new(Access::read("tokens", TOKENS.as_bytes()).unwrap())), ..Border::default() };
        let meant = Border { open_to_everyone: true, ..Border::default() };
        let check = |border: &Border, address: &str| {
            border.check(address.parse().unwrap()).map_err(|e| e.message().to_string()).err()
        };
        for address in ["127.0.0.1:8470", "127.8.8.8:1", "[::1]:8470"] {
            assert_eq!(check(&open, address), None);
        }
        let end = "listen on 127.0.0.1, or say --open-to-everyone";
        for address in ["0.0.0.0:8470", "[::]:8470", "192.168.1.5:80"] {
            let asked = "TLS and tokens; use --tls-cert, --tls-key and --tokens";
            let message = format!("refusing to listen on {address} without {asked}, {end}");
            assert_eq!(check(&open, address), Some(message));
            assert_eq!(check(&meant, address), None);
        }
        let asked = "TLS: tokens would be read on the way; use --tls-cert and --tls-key";
        let message = format!("refusing to listen on 0.0.0.0:1 without {asked}, {end}");
        assert_eq!(check(&tokens, "0.0.0.0:1"), Some(message));
    }
}
