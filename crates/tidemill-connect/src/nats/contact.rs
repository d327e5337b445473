//! The first contact with a NATS server: who we are, and which stream it is about.

use std::time::Duration;

use async_nats::{
    Client, ConnectErrorKind, ConnectOptions,
    jetstream::{self, context::GetStreamErrorKind, stream::Stream},
};
use tidemill_base::{Error, Result};

use crate::FIRST_ANSWER;

/// How often a half-open connection is noticed: two pings without an answer.
const PING_EVERY: Duration = Duration::from_secs(3);

/// Connects and finds the stream: the one of this name, or else the one that keeps the subject.
pub(super) async fn contact(
    url: &str,
    stream: Option<&str>,
    subject: Option<&str>,
    properties: &[(String, String)],
) -> Result<(Client, Stream)> {
    let addresses: Vec<&str> = url.split(',').map(str::trim).collect();
    let connecting = options(properties)?.connect(addresses.as_slice());
    let away = || Error::unavailable(format!("{url} does not answer within {} s", FIRST_ANSWER.as_secs()));
    let client =
        tokio::time::timeout(FIRST_ANSWER, connecting).await.map_err(|_| away())?.map_err(|e| match e.kind() {
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                Error::invalid(format!("{url} refuses us: {e}; check user and password in properties_file"))
            }
            ConnectErrorKind::ServerParse => Error::invalid(format!("url '{url}': {e}")),
            _ => Error::unavailable(format!("{url} does not answer: {e}")),
        })?;
    let js = jetstream::new(client.clone());
    let name = match (stream, subject) {
        (Some(name), _) => name.to_string(),
        (None, Some(subject)) => js
            .stream_by_subject(subject.to_string())
            .await
            .map_err(|e| Error::not_found(format!("no JetStream stream at {url} keeps subject '{subject}': {e}")))?,
        (None, None) => return Err(Error::internal("neither stream nor subject")),
    };
    let stream = js.get_stream(&name).await.map_err(|e| match e.kind() {
        GetStreamErrorKind::JetStream(_) => Error::not_found(format!("no stream '{name}' at {url}: {e}")),
        GetStreamErrorKind::InvalidStreamName | GetStreamErrorKind::EmptyName => {
            Error::invalid(format!("nats.stream '{name}' is no name of a stream"))
        }
        _ => Error::unavailable(format!("{url}: JetStream does not answer: {e}; is it switched on?")),
    })?;
    Ok((client, stream))
}

fn options(properties: &[(String, String)]) -> Result<ConnectOptions> {
    let mut options = ConnectOptions::new()
        .name("tidemill")
        .connection_timeout(FIRST_ANSWER)
        .request_timeout(Some(FIRST_ANSWER))
        .ping_interval(PING_EVERY)
        .max_reconnects(None);
    let find = |name: &str| properties.iter().find(|p| p.0 == name).map(|p| p.1.clone());
    for (name, _) in properties {
        if !["user", "password", "token", "tls", "tls.ca_file"].contains(&name.as_str()) {
            return Err(Error::invalid(format!(
                "properties: '{name}' is not known; nats has user, password, token, tls and tls.ca_file (keys and \
                     credentials files are not supported)"
            )));
        }
    }
    if let Some(user) = find("user") {
        options = options.user_and_password(user, find("password").unwrap_or_default());
    }
    if let Some(token) = find("token") {
        options = options.token(token);
    }
    if let Some(path) = find("tls.ca_file") {
        options = options.add_root_certificates(path.into());
    }
    Ok(options.require_tls(find("tls").as_deref() == Some("true")))
}
