//! The page and what it needs, compiled in.

use hyper::{
    StatusCode,
    header::{self, HeaderValue},
};

use super::reply::{self, Reply};

/// One file of the page.
pub(super) struct Asset {
    path: &'static str,
    content_type: &'static str,
    body: &'static str,
}

macro_rules! asset {
    ($path:literal, $content_type:literal, $file:literal) => {
        Asset { path: $path, content_type: $content_type, body: include_str!(concat!("../../assets/", $file)) }
    };
}

static ASSETS: [Asset; 11] = [
    asset!("/", "text/html; charset=utf-8", "index.html"),
    asset!("/assets/style.css", "text/css; charset=utf-8", "style.css"),
    asset!("/assets/app.js", "text/javascript; charset=utf-8", "app.js"),
    asset!("/assets/charts.js", "text/javascript; charset=utf-8", "charts.js"),
    asset!("/assets/line.js", "text/javascript; charset=utf-8", "line.js"),
    asset!("/assets/feed.js", "text/javascript; charset=utf-8", "feed.js"),
    asset!("/assets/rollout.js", "text/javascript; charset=utf-8", "rollout.js"),
    asset!("/assets/icon.svg", "image/svg+xml", "icon.svg"),
    asset!("/assets/vendor/uPlot.iife.min.js", "text/javascript; charset=utf-8", "vendor/uPlot.iife.min.js"),
    asset!("/assets/vendor/uPlot.min.css", "text/css; charset=utf-8", "vendor/uPlot.min.css"),
    asset!("/assets/vendor/LICENSE", "text/plain; charset=utf-8", "vendor/LICENSE"),
];

/// The page loads nothing from elsewhere, runs no script but its own, and stands in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) fn find(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|a| a.path == path)
}

impl Asset {
    pub fn reply(&self) -> Reply {
        let mut reply = reply::bytes(StatusCode::OK, self.content_type, self.body);
        let headers = reply.headers_mut();
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        // Asked for again with every load: the file belongs to the binary that is running now.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        reply
    }
}
