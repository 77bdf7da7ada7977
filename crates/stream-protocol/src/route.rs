//! Which request goes where: methods and paths, without any HTTP library.

use bytes::Bytes;

use crate::format;
use crate::message::Limits;

/// The header by which every answer names the run of the converter it comes from: a decimal u64 that
/// changes whenever chunks that were not yet durable may have been lost.
pub const EPOCH_HEADER: &str = "p2v-epoch";
/// `Content-Type` of control messages.
pub const JSON: &str = "application/json";
/// `Content-Type` of binary bodies.
pub const BINARY: &str = "application/octet-stream";
/// Most bytes of a control message; an inventory of a machine with many disks and addresses fits.
pub const MAX_CONTROL_BYTES: u32 = 8 << 20;

/// The methods in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    Get,
    /// `POST`
    Post,
}

impl Method {
    /// As it stands in the request line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
        }
    }
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Route {
    /// `POST /p2v/hello`: [`crate::message::Hello`] → [`crate::message::Welcome`].
    Hello,
    /// `POST /p2v/1/pushes`: [`crate::message::OpenPush`] → [`crate::message::Opened`].
    Open,
    /// `POST /p2v/1/pushes/PUSH/query`: [`format::Query`] → [`format::Answer`].
    Query {
        /// Which push.
        push: u64,
    },
    /// `POST /p2v/1/pushes/PUSH/chunks`: [`format::Batch`] → [`crate::message::ChunksTaken`].
    Chunks {
        /// Which push.
        push: u64,
    },
    /// `POST /p2v/1/pushes/PUSH/disks/DISK/recipe`: [`format::Append`] → [`crate::message::Appended`].
    Recipe {
        /// Which push.
        push: u64,
        /// Which disk, by its place in [`crate::message::OpenPush::disks`].
        disk: u32,
    },
    /// `POST /p2v/1/pushes/PUSH/disks/DISK/commit`: [`crate::message::CommitDisk`] → [`crate::message::DiskCommitted`].
    Commit {
        /// Which push.
        push: u64,
        /// Which disk.
        disk: u32,
    },
    /// `POST /p2v/1/pushes/PUSH/finish`: [`crate::message::Finish`] → [`crate::message::Finished`].
    Finish {
        /// Which push.
        push: u64,
    },
    /// `POST /p2v/1/pushes/PUSH/sign`: [`crate::message::Sign`] → [`crate::message::SignSeen`].
    Sign {
        /// Which push.
        push: u64,
    },
}

/// A path or method that leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// No such path.
    #[error("there is nothing at {found:?}")]
    Path {
        /// The path, cut to a printable length.
        found: String,
    },
    /// The path exists, for another method.
    #[error("{path} takes {expected}, not {found}")]
    Method {
        /// The path.
        path: String,
        /// What it takes.
        expected: &'static str,
        /// What came.
        found: String,
    },
    /// The path names a version this converter does not speak.
    #[error("the path names version {found:?} of the protocol, expected \"1\"")]
    Version {
        /// The version as found.
        found: String,
    },
}

/// A request on its way out. The body is in pieces so that chunks need not be copied together.
#[derive(Debug, Clone)]
pub struct Request {
    /// What it asks for.
    pub route: Route,
    /// The body; its pieces one behind the other.
    pub body: Vec<Bytes>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// [`EPOCH_HEADER`]; 0 where it is absent (a proxy answered).
    pub epoch: u64,
    /// [`JSON`] or [`BINARY`].
    pub content_type: &'static str,
    /// The body.
    pub body: Bytes,
}

impl Request {
    /// Bytes of the body.
    #[must_use]
    pub fn body_len(&self) -> u64 {
        self.body.iter().map(|piece| piece.len() as u64).sum()
    }

    /// The body in one piece, copied where it is in several.
    #[must_use]
    pub fn body_bytes(&self) -> Bytes {
        match self.body.as_slice() {
            [only] => only.clone(),
            pieces => pieces.concat().into(),
        }
    }
}

impl Route {
    /// The method it is asked with.
    #[must_use]
    pub fn method(self) -> Method {
        Method::Post
    }

    /// The path it is asked at.
    #[must_use]
    pub fn path(self) -> String {
        match self {
            Self::Hello => "/p2v/hello".to_owned(),
            Self::Open => "/p2v/1/pushes".to_owned(),
            Self::Query { push } => format!("/p2v/1/pushes/{push:016x}/query"),
            Self::Chunks { push } => format!("/p2v/1/pushes/{push:016x}/chunks"),
            Self::Recipe { push, disk } => {
                format!("/p2v/1/pushes/{push:016x}/disks/{disk}/recipe")
            }
            Self::Commit { push, disk } => {
                format!("/p2v/1/pushes/{push:016x}/disks/{disk}/commit")
            }
            Self::Finish { push } => format!("/p2v/1/pushes/{push:016x}/finish"),
            Self::Sign { push } => format!("/p2v/1/pushes/{push:016x}/sign"),
        }
    }

    /// What `method` at `path` asks for.
    ///
    /// # Errors
    /// [`RouteError`] where that is nothing.
    pub fn parse(method: &str, path: &str) -> Result<Self, RouteError> {
        let route = Self::parse_path(path)?;
        if method != route.method().as_str() {
            return Err(RouteError::Method {
                path: route.path(),
                expected: route.method().as_str(),
                found: printable(method),
            });
        }
        Ok(route)
    }

    /// `Content-Type` of the request's body.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Query { .. } | Self::Chunks { .. } | Self::Recipe { .. } => BINARY,
            _ => JSON,
        }
    }

    /// Most bytes its body may have. Nothing beyond is read.
    #[must_use]
    pub fn max_body(self, limits: &Limits) -> u64 {
        match self {
            Self::Hello | Self::Finish { .. } | Self::Sign { .. } => 64 << 10,
            Self::Open | Self::Commit { .. } => u64::from(MAX_CONTROL_BYTES),
            Self::Query { .. } => format::Query::len_for(limits.max_query_ids),
            Self::Chunks { .. } => u64::from(limits.max_batch_bytes),
            Self::Recipe { .. } => format::Append::len_for(limits.max_append_entries),
        }
    }

    /// The push it belongs to.
    #[must_use]
    pub fn push(self) -> Option<u64> {
        match self {
            Self::Hello | Self::Open => None,
            Self::Query { push }
            | Self::Chunks { push }
            | Self::Recipe { push, .. }
            | Self::Commit { push, .. }
            | Self::Finish { push }
            | Self::Sign { push } => Some(push),
        }
    }

    fn parse_path(path: &str) -> Result<Self, RouteError> {
        let nothing = || RouteError::Path {
            found: printable(path),
        };
        let rest = path.strip_prefix("/p2v/").ok_or_else(nothing)?;
        // One part more than any route has, so that a longer path is seen as such.
        let parts: Vec<&str> = rest.splitn(7, '/').collect();
        let (version, parts) = match parts.as_slice() {
            ["hello"] => return Ok(Self::Hello),
            [version, "pushes", parts @ ..] => (*version, parts),
            _ => return Err(nothing()),
        };
        if version != "1" {
            return Err(RouteError::Version {
                found: printable(version),
            });
        }
        let (push, parts) = match parts {
            [] => return Ok(Self::Open),
            [push, parts @ ..] => (parse_push(push).ok_or_else(nothing)?, parts),
        };
        match parts {
            ["query"] => Ok(Self::Query { push }),
            ["chunks"] => Ok(Self::Chunks { push }),
            ["finish"] => Ok(Self::Finish { push }),
            ["sign"] => Ok(Self::Sign { push }),
            ["disks", disk, what] => {
                let disk = parse_disk(disk).ok_or_else(nothing)?;
                match *what {
                    "recipe" => Ok(Self::Recipe { push, disk }),
                    "commit" => Ok(Self::Commit { push, disk }),
                    _ => Err(nothing()),
                }
            }
            _ => Err(nothing()),
        }
    }
}

/// One path, one route: 16 lower-case hex digits, no other way of writing the number.
fn parse_push(text: &str) -> Option<u64> {
    let exact = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    exact.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

fn parse_disk(text: &str) -> Option<u32> {
    let disk: u32 = text.parse().ok()?;
    (disk.to_string() == text).then_some(disk)
}

fn printable(text: &str) -> String {
    let short = text.chars().take(120);
    short
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_route() -> impl Strategy<Value = Route> {
        let (push, disk) = (any::<u64>(), any::<u32>());
        (0_u8..8, push, disk).prop_map(|(which, push, disk)| match which {
            0 => Route::Hello,
            1 => Route::Open,
            2 => Route::Query { push },
            3 => Route::Chunks { push },
            4 => Route::Recipe { push, disk },
            5 => Route::Commit { push, disk },
            6 => Route::Finish { push },
            _ => Route::Sign { push },
        })
    }

    proptest! {
        #[test]
        fn each_route_has_its_path(route in any_route()) {
            prop_assert_eq!(Route::parse("POST", &route.path()), Ok(route));
            let refused = matches!(Route::parse("GET", &route.path()), Err(RouteError::Method { .. }));
            prop_assert!(refused);
        }

        #[test]
        fn any_path_is_refused_or_printed_alike(path in "(/p2v/)?(1/pushes/)?[0-9a-f/.%]{0,40}(disks/)?.{0,20}") {
            if let Ok(route) = Route::parse("POST", &path) {
                prop_assert_eq!(route.path(), path);
            }
        }
    }

    #[test]
    fn paths_that_lead_nowhere() {
        for path in [
            "",
            "/",
            "/p2v/",
            "/p2v/1/pushes/",
            "/p2v/1/pushes/00000000000000ff",
            "/p2v/1/pushes/00000000000000FF/query",
            "/p2v/1/pushes/ff/query",
            "/p2v/1/pushes/00000000000000ff/disks/00/recipe",
            "/p2v/1/pushes/00000000000000ff/disks/+1/recipe",
            "/p2v/1/pushes/00000000000000ff/disks/1/recipe/x",
            "/p2v/1/pushes/00000000000000ff/query/../../x",
        ] {
            let error = Route::parse("POST", path).unwrap_err();
            assert!(matches!(error, RouteError::Path { .. }), "{path}: {error}");
        }
        let error = Route::parse("POST", "/p2v/2/pushes").unwrap_err();
        assert!(matches!(error, RouteError::Version { .. }));
    }
}
