//! A client of gRPC: HTTP/2, its framing, and nothing else.

use std::net::SocketAddr;

use bytes::Bytes;
use hyper::Request;
use prost::Message;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    runtime::Runtime,
};

use super::site::Site;

pub const OK: i32 = 0;
/// A client of HTTP/2 that knows gRPC's framing and nothing else.
pub struct Client {
    pub runtime: Runtime,
    pub send: h2::client::SendRequest<Bytes>,
}

#[derive(Debug)]
pub struct CallAnswer {
    pub code: i32,
    pub text: String,
    pub body: Vec<u8>,
    /// How long to wait before the next try, milliseconds.
    pub pushback: Option<String>,
}

impl CallAnswer {
    pub fn read<M: Message + Default>(&self) -> M {
        assert_eq!(self.code, OK, "{self:?}");
        assert_eq!(u32::from_be_bytes(self.body[1..5].try_into().unwrap()) as usize + 5, self.body.len());
        M::decode(&self.body[5..]).unwrap()
    }

    pub fn refused(&self, code: i32, text: &str) {
        assert!(self.code == code && self.text.starts_with(text), "{code} {text}: {self:?}");
    }
}

pub fn framed(message: &[u8]) -> Vec<u8> {
    [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat()
}

impl Client {
    pub fn open(site: &Site) -> Self {
        Self::over(async |address| tokio::net::TcpStream::connect(address).await.unwrap(), site)
    }

    /// Over a stream of another kind.
    pub fn over<S>(connect: impl AsyncFnOnce(SocketAddr) -> S, site: &Site) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let send = runtime.block_on(async {
            let stream = connect(site.server.address()).await;
            let (send, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            send
        });
        Self { runtime, send }
    }

    pub fn call(&self, method: &str, message: &impl Message) -> CallAnswer {
        let path = format!("/inference.GRPCInferenceService/{method}");
        self.send(&path, &[], framed(&message.encode_to_vec()))
    }

    pub fn send(&self, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> CallAnswer {
        let mut request = Request::post(format!("http://localhost{path}")).header("content-type", "application/grpc");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.runtime.block_on(async {
            let mut send = self.send.clone().ready().await.unwrap();
            let (reply, mut stream) = send.send_request(request.body(()).unwrap(), false).unwrap();
            // Where the server has answered already, the rest of the body is not wanted.
            let _ = stream.send_data(Bytes::from(body), true);
            let reply = reply.await.unwrap();
            assert_eq!(reply.status(), 200);
            let (head, mut data) = reply.into_parts();
            let mut body = Vec::new();
            while let Some(Ok(piece)) = data.data().await {
                data.flow_control().release_capacity(piece.len()).unwrap();
                body.extend_from_slice(&piece);
            }
            let trailers = data.trailers().await.ok().flatten().unwrap_or_default();
            let find = |name: &str| head.headers.get(name).or(trailers.get(name)).cloned();
            let code = find("grpc-status").unwrap().to_str().unwrap().parse().unwrap();
            let text = find("grpc-message").map_or(String::new(), |v| {
                v.to_str()
                    .unwrap()
                    .replace("%20", " ")
                    .replace("%22", "\"")
                    .replace("%3E", ">")
                    .replace("%7B", "{")
                    .replace("%7D", "}")
            });
            let pushback = find("grpc-retry-pushback-ms").map(|v| v.to_str().unwrap().to_string());
            CallAnswer { code, text, body, pushback }
        })
    }
}
