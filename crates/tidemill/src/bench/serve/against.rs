//! The same load on another server: what `tidemill bench serve --against URL` does.
//!
//! In: the address of an inference endpoint. Out: requests a second, by the very generator and request that our own figures
//! come from, so that a ratio compares servers and not clients.

use std::net::{SocketAddr, ToSocketAddrs};

use tidemill_base::{Error, Result, Rng};

use super::{
    super::{
        Case,
        load::{Load, post},
    },
    CONNECTIONS,
    process::stay_on_core,
    requests::infer_body,
};

/// How long a server is warmed up, as a share of a round.
const WARM_UP: f64 = 0.25;

/// What stands in every answer of the protocol.
const OUTPUTS: &[u8] = b"\"outputs\"";

/// Which server, and how it is asked.
pub struct Against {
    /// `http://HOST:PORT/PATH`.
    pub url: String,
    /// Times it is measured.
    pub rounds: usize,
    /// How long, in each round.
    pub seconds: f64,
}

/// Asks as fast as replies come, on as many connections as our own server is asked on.
pub fn run(plan: &Against, tell: &mut dyn FnMut(&str)) -> Result<Vec<Case>> {
    let (address, path) = parse(&plan.url)?;
    stay_on_core(1);
    let request = post(address, path, infer_body(&mut Rng::seeded(7)).as_bytes());
    let mut load = Load::open(address, CONNECTIONS)?;
    let (answer, _) = load.ask(&request)?;
    if !answer.windows(OUTPUTS.len()).any(|w| w == OUTPUTS) {
        let said: String = String::from_utf8_lossy(&answer).chars().take(200).collect();
        return Err(Error::invalid(format!("{}: the reply has no outputs: {said}", plan.url)));
    }
    load.closed(&request, plan.seconds * WARM_UP)?;
    let names = [("infer, 39 floats", "requests/s"), ("infer, 39 floats, p50", "us"), ("infer, 39 floats, p99", "us")];
    let [mut speed, mut p50, mut p99] = names.map(|(name, unit)| Case::new(name, unit));
    for round in 1..=plan.rounds {
        tell(&format!("round {round} of {}: {}", plan.rounds, plan.url));
        let measured = load.closed(&request, plan.seconds)?;
        speed.values.push(measured.rate());
        p50.values.push(measured.times.quantile_us(0.5));
        p99.values.push(measured.times.quantile_us(0.99));
    }
    Ok(vec![speed, p50, p99])
}

fn parse(url: &str) -> Result<(SocketAddr, &str)> {
    let wrong = |why: &str| Error::invalid(format!("--against '{url}': {why}; write http://HOST:PORT/PATH"));
    let rest = url.strip_prefix("http://").ok_or_else(|| wrong("no http:// in front"))?;
    let at = rest.find('/').ok_or_else(|| wrong("no path"))?;
    let (host, path) = rest.split_at(at);
    let mut addresses = host.to_socket_addrs().map_err(|e| wrong(&format!("'{host}' is no address ({e})")))?;
    Ok((addresses.next().ok_or_else(|| wrong("nobody has that address"))?, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_host_port_and_path() {
        let (address, path) = parse("http://127.0.0.1:8000/v2/models/m/infer").unwrap();
        assert_eq!((address.port(), path), (8000, "/v2/models/m/infer"));
        for wrong in ["127.0.0.1:8000/x", "http://127.0.0.1:8000", "http://127.0.0.1/x"] {
            assert!(parse(wrong).unwrap_err().message().contains("write http://HOST:PORT/PATH"), "{wrong}");
        }
    }
}
